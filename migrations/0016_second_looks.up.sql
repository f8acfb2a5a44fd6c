-- What a second look at the functions found: each decides after it has locked, by what is there then.

-- 0009 tidies the logins that wait for a second factor.
CREATE OR REPLACE FUNCTION guessing_tidy(p_now timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    DELETE FROM address_attempts a WHERE (a.network, a.lane) IN (
        SELECT x.network, x.lane FROM address_attempts x WHERE x.free_at <= p_now LIMIT 10000 FOR UPDATE SKIP LOCKED);
    DELETE FROM known_devices d WHERE d.known_device_id IN (
        SELECT x.known_device_id FROM known_devices x WHERE x.expires_at <= p_now LIMIT 10000);
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION guessing_tidy(timestamptz) IS 'Removes what has lapsed: counts of addresses, known devices; at most 10,000 of each.';

-- Whoever set a first password may still know it: a person whom they link would stay when the password has gone.
CREATE OR REPLACE FUNCTION kanidm_link_refusal(p_user uuid, p_session uuid) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    u users%ROWTYPE;
    s sessions%ROWTYPE;
BEGIN
    SELECT * INTO u FROM users x WHERE x.user_id = p_user AND x.deleted_at IS NULL FOR NO KEY UPDATE;
    SELECT * INTO s FROM sessions x WHERE x.session_id = p_session AND x.user_id = p_user FOR NO KEY UPDATE;
    RETURN CASE
        WHEN u.user_id IS NULL OR u.status <> 'active' OR s.session_id IS NULL OR s.status <> 'active' THEN 'refused'
        -- A user who was rolled back keeps the link for the next attempt, and an administrator's word on it.
        WHEN u.kanidm_user_id IS NOT NULL OR u.auth_method <> 'password' THEN 'already_linked'
        WHEN u.must_change_password THEN 'password_change_required'
    END;
END
$$;

-- A key that is revoked while its exchange waits for the account buys nothing any more.
CREATE OR REPLACE FUNCTION api_key_exchange(p_key_hash bytea, p_kind text, p_account uuid, p_now timestamptz, p_event jsonb,
    p_personal bytea, p_refused jsonb, p_refused_personal bytea,
    OUT outcome text, OUT service_account_id uuid, OUT tenant_id uuid, OUT permissions text[],
    OUT tokens_valid_from timestamptz, OUT expires_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := session_widen();
    k api_keys%ROWTYPE;
    a service_accounts%ROWTYPE;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO k FROM api_keys x WHERE x.key_hash = p_key_hash;
        -- A client's secret is good together with that client's id only.
        IF k.api_key_id IS NULL OR k.kind <> p_kind OR (p_account IS NOT NULL AND k.service_account_id <> p_account) THEN
            outcome := 'unknown';
            EXIT body;
        END IF;
        SELECT * INTO a FROM service_accounts x WHERE x.service_account_id = k.service_account_id FOR SHARE;
        SELECT * INTO k FROM api_keys x WHERE x.api_key_id = k.api_key_id;
        outcome := CASE
            WHEN k.revoked_at IS NOT NULL THEN 'revoked'
            WHEN k.expires_at <= p_now THEN 'expired'
            WHEN a.deleted_at IS NOT NULL OR a.status <> 'active' THEN 'disabled'
            WHEN a.tenant_id IS NOT NULL AND NOT EXISTS (SELECT FROM tenants t
                WHERE t.tenant_id = a.tenant_id AND t.status = 'active' AND t.deleted_at IS NULL) THEN 'tenant_disabled'
            ELSE 'accepted'
        END;
        service_account_id := a.service_account_id;
        tenant_id := a.tenant_id;
        IF outcome <> 'accepted' THEN
            PERFORM audit_record(p_refused || jsonb_build_object('reason', outcome, 'tenant_id', a.tenant_id,
                'target_kind', 'api_key', 'target_id', k.api_key_id), p_refused_personal);
            EXIT body;
        END IF;
        permissions := CASE
            WHEN cardinality(k.scopes) = 0 OR '*' = ANY (k.scopes) THEN a.permissions
            WHEN '*' = ANY (a.permissions) THEN k.scopes
            ELSE ARRAY(SELECT unnest(a.permissions) INTERSECT SELECT unnest(k.scopes) ORDER BY 1)
        END;
        tokens_valid_from := a.tokens_valid_from;
        expires_at := k.expires_at;
        UPDATE api_keys x SET last_used_at = date_trunc('minute', p_now)
            WHERE x.api_key_id = k.api_key_id AND x.last_used_at IS DISTINCT FROM date_trunc('minute', p_now);
        PERFORM audit_record(p_event || jsonb_build_object('tenant_id', a.tenant_id, 'actor_kind', 'service_account',
            'actor_id', a.service_account_id, 'origin_subject', a.service_account_id, 'personal_subject',
            a.service_account_id, 'target_kind', 'api_key', 'target_id', k.api_key_id), p_personal);
    END body;
    PERFORM session_narrow(v_scope);
END
$$;

-- A successor that was revoked, as by a change of the password, is given to nobody again. An exchange that another one of
-- the same token has outrun leads to the same successor while that is unused, and ends nothing: clients race themselves.
DROP FUNCTION session_refresh(bytea, bytea, uuid, bytea, uuid, uuid, timestamptz, interval, interval, interval, uuid, interval, jsonb, bytea, jsonb, bytea);
CREATE FUNCTION session_refresh(p_token_hash bytea, p_request_hash bytea, p_successor_id uuid, p_successor_hash bytea,
    p_access_jti uuid, p_asked_tenant uuid, p_asked_audience text, p_now timestamptz, p_repeat interval, p_leeway interval,
    p_access_until timestamptz, p_idle interval, p_persistent_idle interval, p_lease uuid, p_lease_time interval, p_event jsonb, p_personal bytea, p_reuse jsonb, p_reuse_personal bytea,
    OUT outcome text, OUT session_id uuid, OUT user_id uuid, OUT tenant_id uuid, OUT audience text, OUT roles text[],
    OUT permissions text[], OUT platform_permissions text[], OUT tokens_valid_from timestamptz,
    OUT must_change_password boolean, OUT expires_at timestamptz, OUT refresh_expires_at timestamptz,
    OUT kanidm_user_id uuid, OUT kanidm_refresh_token bytea)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := session_widen();
    t refresh_tokens%ROWTYPE;
    s sessions%ROWTYPE;
    u users%ROWTYPE;
    v_next refresh_tokens%ROWTYPE;
    v_rights record;
    v_raced boolean := false;
    v_repeats boolean := false;
BEGIN
    <<body>>
    BEGIN
        outcome := 'invalid';
        SELECT x.session_id, y.user_id INTO session_id, user_id
            FROM refresh_tokens x JOIN sessions y ON y.session_id = x.session_id WHERE x.token_hash = p_token_hash;
        IF session_id IS NULL THEN
            EXIT body;
        END IF;
        -- Held until the end, so that a change of the user's rights comes entirely before this refresh or after it.
        SELECT * INTO u FROM users x WHERE x.user_id = session_refresh.user_id FOR SHARE;
        SELECT * INTO s FROM sessions x WHERE x.session_id = session_refresh.session_id FOR NO KEY UPDATE;
        SELECT * INTO t FROM refresh_tokens x WHERE x.token_hash = p_token_hash;
        IF s.status <> 'active' OR t.revoked_at IS NOT NULL THEN
            EXIT body;
        END IF;
        IF t.used_at IS NOT NULL THEN
            SELECT * INTO v_next FROM refresh_tokens x WHERE x.refresh_token_id = t.successor_id;
            -- Without a leeway there is none, whichever replica's clock is ahead.
            v_raced := p_leeway > interval '0' AND t.used_at > p_now - p_leeway;
            v_repeats := t.request_hash = p_request_hash AND t.used_at > p_now - p_repeat;
            IF v_next.used_at IS NOT NULL OR NOT (v_raced OR v_repeats) THEN
                PERFORM session_close(s.session_id, 'token_reuse', p_now);
                PERFORM audit_record(p_reuse || jsonb_build_object('tenant_id', s.tenant_id, 'session_id', s.session_id,
                    'target_kind', 'session', 'target_id', s.session_id), p_reuse_personal);
                outcome := 'reuse';
                EXIT body;
            END IF;
            IF v_next.revoked_at IS NOT NULL THEN
                EXIT body;
            END IF;
            IF v_repeats AND p_asked_tenant IS NOT NULL AND p_asked_tenant IS DISTINCT FROM s.tenant_id THEN
                outcome := 'request_id_reused';
                EXIT body;
            END IF;
            -- The other exchange led elsewhere, or to a successor that is derived from another key by now.
            IF v_next.token_hash <> p_successor_hash
                    OR (p_asked_tenant IS NOT NULL AND p_asked_tenant IS DISTINCT FROM s.tenant_id) THEN
                outcome := 'raced';
                EXIT body;
            END IF;
        END IF;
        IF s.expires_at <= p_now OR (t.used_at IS NULL AND t.expires_at <= p_now) THEN
            UPDATE sessions x SET status = 'expired', kanidm_refresh_token = NULL WHERE x.session_id = s.session_id;
            EXIT body;
        END IF;
        -- What an administrator locked is shut; a lock after failures only keeps guesses out.
        IF u.deleted_at IS NOT NULL OR u.status <> 'active'
                OR (u.locked_until > p_now AND u.lock_reason = 'administrator') THEN
            EXIT body;
        END IF;
        -- A session for one service must not become one for another, least of all for this one.
        IF p_asked_audience <> s.audience THEN
            outcome := 'other_audience';
            EXIT body;
        END IF;
        IF s.auth_method = 'kanidm' AND t.used_at IS NULL THEN
            IF u.kanidm_user_id IS NULL OR u.auth_method = 'password' THEN
                EXIT body;
            END IF;
            IF s.kanidm_lease_id IS DISTINCT FROM p_lease OR NOT s.kanidm_renewed THEN
                IF s.kanidm_lease_until > clock_timestamp() AND s.kanidm_lease_id IS DISTINCT FROM p_lease THEN
                    outcome := 'kanidm_busy';
                    EXIT body;
                END IF;
                UPDATE sessions x SET kanidm_lease_id = p_lease, kanidm_lease_until = clock_timestamp() + p_lease_time,
                    kanidm_renewed = false WHERE x.session_id = s.session_id;
                outcome := 'kanidm_required';
                kanidm_user_id := u.kanidm_user_id;
                kanidm_refresh_token := s.kanidm_refresh_token;
                EXIT body;
            END IF;
        END IF;
        tenant_id := coalesce(p_asked_tenant, s.tenant_id);
        SELECT * INTO v_rights FROM session_rights(u.user_id, tenant_id);
        IF NOT v_rights.member AND (tenant_id IS NOT NULL OR cardinality(v_rights.platform_permissions) = 0) THEN
            UPDATE sessions x SET kanidm_lease_id = NULL, kanidm_lease_until = NULL
                WHERE x.session_id = s.session_id AND x.kanidm_lease_id = p_lease;
            outcome := 'no_tenant';
            EXIT body;
        END IF;
        IF t.used_at IS NULL THEN
            outcome := 'refreshed';
            refresh_expires_at := least(p_now + CASE WHEN s.persistent THEN p_persistent_idle ELSE p_idle END, s.expires_at);
            UPDATE refresh_tokens x SET used_at = p_now, successor_id = p_successor_id, request_hash = p_request_hash
                WHERE x.refresh_token_id = t.refresh_token_id;
            INSERT INTO refresh_tokens (refresh_token_id, token_family, session_id, token_hash, tenant_id, access_until,
                    created_at, expires_at)
                VALUES (p_successor_id, t.token_family, s.session_id, p_successor_hash, session_refresh.tenant_id,
                    p_access_until, p_now, refresh_expires_at);
            UPDATE sessions x SET tenant_id = session_refresh.tenant_id, last_activity_at = p_now,
                    idle_expires_at = refresh_expires_at, refresh_token_jti = p_successor_id,
                    refresh_token_hash = p_successor_hash, access_token_jti = p_access_jti, kanidm_lease_id = NULL,
                    kanidm_lease_until = NULL, kanidm_renewed = false
                WHERE x.session_id = s.session_id;
        ELSE
            outcome := 'repeated';
            refresh_expires_at := v_next.expires_at;
            UPDATE sessions x SET access_token_jti = p_access_jti WHERE x.session_id = s.session_id;
            UPDATE refresh_tokens x SET access_until = greatest(x.access_until, p_access_until)
                WHERE x.refresh_token_id = v_next.refresh_token_id;
        END IF;
        PERFORM audit_record(p_event || jsonb_build_object('tenant_id', tenant_id, 'session_id', s.session_id,
            'actor_kind', 'user', 'actor_id', u.user_id, 'origin_subject', u.user_id, 'personal_subject', u.user_id,
            'target_kind', 'session', 'target_id', s.session_id, 'details',
            coalesce(p_event -> 'details', '{}') || jsonb_build_object('repeated', outcome = 'repeated')
                || CASE WHEN outcome = 'repeated' AND NOT v_repeats THEN '{"raced": true}'::jsonb ELSE '{}' END), p_personal);
        audience := s.audience;
        roles := v_rights.roles;
        permissions := v_rights.permissions;
        platform_permissions := v_rights.platform_permissions;
        tokens_valid_from := u.tokens_valid_from;
        must_change_password := u.must_change_password AND s.auth_method <> 'kanidm';
        expires_at := s.expires_at;
    END body;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION session_refresh(bytea, bytea, uuid, bytea, uuid, uuid, text, timestamptz, interval, interval, timestamptz, interval, interval, uuid, interval, jsonb, bytea, jsonb, bytea) IS 'Exchanges a refresh token for its successor; repeats the exchange for the call that began it, and for those that it outran; any other second use ends the session. Sessions through Kanidm first get a lease to renew there.';
REVOKE ALL ON FUNCTION session_refresh(bytea, bytea, uuid, bytea, uuid, uuid, text, timestamptz, interval, interval, timestamptz, interval, interval, uuid, interval, jsonb, bytea, jsonb, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session_refresh(bytea, bytea, uuid, bytea, uuid, uuid, text, timestamptz, interval, interval, timestamptz, interval, interval, uuid, interval, jsonb, bytea, jsonb, bytea) TO sidle_app;

-- Only who registered here and has not confirmed yet is sent the way to do so again. An account that is in use under an
-- address that nobody has confirmed is somebody's; whoever has the mailbox must not confirm it for them unknowingly.
CREATE OR REPLACE FUNCTION registration_answer(p_now timestamptz, p_token jsonb, p_verify jsonb, p_attempt jsonb, p_most integer)
    RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := session_widen();
    v_answer text;
    v_older uuid;
    r registrations%ROWTYPE;
    u users%ROWTYPE;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO r FROM registrations x WHERE x.state = 'asked' ORDER BY x.created_at LIMIT 1 FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            EXIT body;
        END IF;
        IF r.expires_at <= p_now OR NOT registration_is_open(r.tenant_id)
            OR NOT tenant_takes_address(r.tenant_id, r.email_key) THEN
            v_answer := 'lapsed';
        ELSE
            -- The user before the count of the address, as a change of the user does.
            SELECT * INTO u FROM users x WHERE x.email_key = r.email_key AND x.deleted_at IS NULL FOR NO KEY UPDATE;
            IF mail_is_capped(r.email_key, 'verify_email', p_most) THEN
                v_answer := 'capped';
            ELSIF u.user_id IS NULL THEN
                FOR v_older IN
                    SELECT x.registration_id FROM registrations x
                    WHERE x.email_key = r.email_key AND x.tenant_id = r.tenant_id AND x.state = 'sent' FOR UPDATE
                LOOP
                    PERFORM registration_close(v_older, 'superseded');
                END LOOP;
                UPDATE registrations x SET state = 'sent', token_hash = decode(p_token ->> 'token_hash', 'hex')
                    WHERE x.registration_id = r.registration_id;
                PERFORM mail_enqueue(p_verify || jsonb_build_object('recipient', r.email, 'recipient_key', r.email_key));
                v_answer := 'verification_sent';
                EXIT body;
            ELSIF u.status = 'pending_verification' THEN
                -- Somebody whose address nobody has confirmed yet gets the way to do so.
                PERFORM one_time_issue('verify_email', u.user_id, p_token, p_now);
                PERFORM mail_enqueue(p_verify || jsonb_build_object('recipient', u.email,
                    'recipient_key', u.email_key, 'user_id', u.user_id));
                v_answer := 'verification_repeated';
            ELSE
                PERFORM mail_enqueue(p_attempt || jsonb_build_object('recipient', u.email,
                    'recipient_key', u.email_key, 'user_id', u.user_id));
                v_answer := 'owner_told';
            END IF;
        END IF;
        PERFORM registration_close(r.registration_id, 'dropped');
    END body;
    PERFORM session_narrow(v_scope);
    RETURN v_answer;
END
$$;

-- The oldest request comes first, however many there are.
CREATE INDEX idx_password_reset_requests_created_at ON password_reset_requests (created_at);

-- What is sealed is bound to whose it is, and no more to the id of its making.
COMMENT ON COLUMN user_totp.totp_id IS 'UUIDv7 of the enrolment: which one a code was computed for.';
COMMENT ON COLUMN user_totp.secret IS 'Shared secret, sealed for this user.';
COMMENT ON COLUMN kanidm_enrolments.link_id IS 'UUIDv7 of the newest reset link.';
COMMENT ON COLUMN kanidm_enrolments.link IS 'The reset link, sealed for this person, for handing it out again; null when it never arrived or must not be handed out any more.';
