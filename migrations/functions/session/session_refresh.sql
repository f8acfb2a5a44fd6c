-- A successor that was revoked, as by a change of the password, is never returned again. An exchange that was overtaken
-- by another one of the same token leads to the same successor while that is unused, and ends nothing: clients race
-- themselves.
CREATE OR REPLACE FUNCTION session_refresh(p refresh_exchange, p_refreshed prepared_event, p_reused prepared_event)
    RETURNS refresh_result
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    t refresh_tokens%ROWTYPE;
    s sessions%ROWTYPE;
    u users%ROWTYPE;
    v_next refresh_tokens%ROWTYPE;
    v_tenant uuid;
    v_rights record;
    v_raced boolean := false;
    v_repeats boolean := false;
    v_now timestamptz;
    v_free_at timestamptz;
    v_charged boolean := false;
    v_told boolean;
    v_result refresh_result;
BEGIN
    <<body>>
    BEGIN
        v_result.outcome := 'invalid';
        SELECT x.session_id, y.user_id INTO v_result.session_id, v_result.user_id
            FROM refresh_tokens x JOIN sessions y ON y.session_id = x.session_id WHERE x.token_hash = p.token_hash;
        IF v_result.session_id IS NULL THEN
            EXIT body;
        END IF;
        -- Locked until the end, so that a change of the user's rights comes entirely before this refresh or after it.
        SELECT * INTO u FROM users x WHERE x.user_id = v_result.user_id FOR SHARE;
        SELECT * INTO s FROM sessions x WHERE x.session_id = v_result.session_id FOR NO KEY UPDATE;
        SELECT * INTO t FROM refresh_tokens x WHERE x.token_hash = p.token_hash;
        -- Includes the time spent waiting for the locks, and so does used_at: an exchange that then waits for this one
        -- must not be taken for a theft.
        v_now := p.exchanged_at + (clock_timestamp() - statement_timestamp());
        IF s.status <> 'active' OR t.revoked_at IS NOT NULL THEN
            EXIT body;
        END IF;
        IF t.used_at IS NOT NULL THEN
            SELECT * INTO v_next FROM refresh_tokens x WHERE x.refresh_token_id = t.successor_id;
            -- A leeway of zero means none, whichever replica's clock is ahead.
            v_raced := p.leeway > interval '0' AND t.used_at > v_now - p.leeway;
            v_repeats := t.request_hash = p.request_hash AND t.used_at > v_now - p.repeat_within;
            IF v_next.used_at IS NOT NULL OR NOT (v_raced OR v_repeats) THEN
                PERFORM session_close(s.session_id, 'token_reuse', v_now);
                PERFORM audit_record_with(p_reused, jsonb_build_object('tenant_id', s.tenant_id, 'session_id', s.session_id,
                    'target_kind', 'session', 'target_id', s.session_id));
                v_result.outcome := 'reused';
                EXIT body;
            END IF;
            IF v_next.revoked_at IS NOT NULL THEN
                EXIT body;
            END IF;
        END IF;
        -- Charged once for each call, which asks again while another renews the session: then without a spacing. A
        -- theft has been detected by now, and does not depend on the rate limit.
        IF p.spacing IS NOT NULL THEN
            v_free_at := greatest(s.refresh_free_at, v_now) + p.spacing;
            IF v_free_at > v_now + p.burst THEN
                v_result.outcome := 'throttled';
                v_result.retry_after := greatest(v_free_at - v_now - p.burst, p.spacing);
                v_free_at := NULL;
                EXIT body;
            END IF;
        END IF;
        IF t.used_at IS NOT NULL THEN
            IF v_repeats AND p.tenant_id IS NOT NULL AND p.tenant_id IS DISTINCT FROM s.tenant_id THEN
                v_result.outcome := 'request_id_reused';
                EXIT body;
            END IF;
            -- The other exchange led to another token, or to a successor that was derived from another key.
            IF v_next.token_hash <> p.successor_hash
                    OR (p.tenant_id IS NOT NULL AND p.tenant_id IS DISTINCT FROM s.tenant_id) THEN
                v_result.outcome := 'raced';
                EXIT body;
            END IF;
        END IF;
        IF s.expires_at <= v_now OR (t.used_at IS NULL AND t.expires_at <= v_now) THEN
            UPDATE sessions x SET status = 'expired', kanidm_refresh_token = NULL WHERE x.session_id = s.session_id;
            EXIT body;
        END IF;
        -- An administrator's lock refuses refreshes; a lock after failures only prevents guesses.
        IF u.deleted_at IS NOT NULL OR u.status <> 'active'
                OR (u.locked_until > v_now AND u.lock_reason = 'administrator') THEN
            EXIT body;
        END IF;
        -- A session for one audience must not become one for another, least of all for Sidle itself.
        IF p.audience <> s.audience THEN
            v_result.outcome := 'other_audience';
            EXIT body;
        END IF;
        IF s.auth_method = 'kanidm' AND t.used_at IS NULL THEN
            IF u.kanidm_user_id IS NULL OR u.auth_method = 'password' THEN
                EXIT body;
            END IF;
            IF s.kanidm_lease_id IS DISTINCT FROM p.lease_id OR NOT s.kanidm_renewed THEN
                IF s.kanidm_lease_until > clock_timestamp() AND s.kanidm_lease_id IS DISTINCT FROM p.lease_id THEN
                    v_result.outcome := 'kanidm_busy';
                    EXIT body;
                END IF;
                UPDATE sessions x SET kanidm_lease_id = p.lease_id, kanidm_lease_until = clock_timestamp() + p.lease_time,
                    kanidm_renewed = false WHERE x.session_id = s.session_id;
                v_result.outcome := 'kanidm_required';
                v_result.kanidm_user_id := u.kanidm_user_id;
                v_result.kanidm_refresh_token := s.kanidm_refresh_token;
                EXIT body;
            END IF;
        END IF;
        v_tenant := coalesce(p.tenant_id, s.tenant_id);
        SELECT * INTO v_rights FROM session_rights(u.user_id, v_tenant);
        IF NOT v_rights.member AND (v_tenant IS NOT NULL OR cardinality(v_rights.platform_permissions) = 0) THEN
            UPDATE sessions x SET kanidm_lease_id = NULL, kanidm_lease_until = NULL
                WHERE x.session_id = s.session_id AND x.kanidm_lease_id = p.lease_id;
            v_result.outcome := 'no_tenant';
            EXIT body;
        END IF;
        IF t.used_at IS NULL THEN
            v_result.outcome := 'refreshed';
            v_result.refresh_expires_at := least(v_now + CASE WHEN s.persistent THEN p.persistent_idle ELSE p.idle END, s.expires_at);
            UPDATE refresh_tokens x SET used_at = v_now, successor_id = p.successor_id, request_hash = p.request_hash
                WHERE x.refresh_token_id = t.refresh_token_id;
            INSERT INTO refresh_tokens (refresh_token_id, token_family, session_id, token_hash, tenant_id, access_until,
                    created_at, expires_at)
                VALUES (p.successor_id, t.token_family, s.session_id, p.successor_hash, v_tenant,
                    p.access_until, v_now, v_result.refresh_expires_at);
            UPDATE sessions x SET tenant_id = v_tenant, last_activity_at = v_now,
                    idle_expires_at = v_result.refresh_expires_at, refresh_token_jti = p.successor_id,
                    refresh_token_hash = p.successor_hash, access_token_jti = p.access_token_jti, kanidm_lease_id = NULL,
                    kanidm_lease_until = NULL, kanidm_renewed = false,
                    refresh_free_at = coalesce(v_free_at, x.refresh_free_at)
                WHERE x.session_id = s.session_id;
        ELSE
            v_result.outcome := 'repeated';
            v_result.refresh_expires_at := v_next.expires_at;
            UPDATE sessions x SET access_token_jti = p.access_token_jti, refresh_free_at = coalesce(v_free_at, x.refresh_free_at)
                WHERE x.session_id = s.session_id;
            UPDATE refresh_tokens x SET access_until = greatest(x.access_until, p.access_until)
                WHERE x.refresh_token_id = v_next.refresh_token_id;
            -- One event for all exchanges that race one another: their number is up to the caller.
            v_told := t.repeated_at > v_now - greatest(p.leeway, interval '10 seconds');
            IF v_told IS NOT TRUE THEN
                UPDATE refresh_tokens x SET repeated_at = v_now WHERE x.refresh_token_id = t.refresh_token_id;
            END IF;
        END IF;
        v_charged := true;
        IF v_told IS NOT TRUE THEN
            PERFORM audit_record_with(p_refreshed, jsonb_build_object('tenant_id', v_tenant, 'session_id', s.session_id,
                'actor_kind', 'user', 'actor_id', u.user_id, 'origin_subject', u.user_id, 'personal_subject', u.user_id,
                'target_kind', 'session', 'target_id', s.session_id, 'details',
                jsonb_build_object('repeated', v_result.outcome = 'repeated')
                    || CASE WHEN v_result.outcome = 'repeated' AND NOT v_repeats THEN '{"raced": true}'::jsonb ELSE '{}' END));
        END IF;
        v_result.audience := s.audience;
        v_result.rights := ROW(v_tenant, v_rights.roles, v_rights.permissions, v_rights.platform_permissions, u.tokens_valid_from,
            u.must_change_password AND s.auth_method <> 'kanidm')::user_rights;
        v_result.expires_at := s.expires_at;
    END body;
    -- Exchanges that ended without a pair are charged as well.
    IF v_free_at IS NOT NULL AND NOT v_charged THEN
        UPDATE sessions x SET refresh_free_at = v_free_at WHERE x.session_id = s.session_id;
    END IF;
    PERFORM rls_restore(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION session_refresh(refresh_exchange, prepared_event, prepared_event) IS 'Exchanges a refresh token for its successor; repeats the exchange for the call that began it, and for those that it overtook; any other second use ends the session. Sessions through Kanidm first get a lease to renew there.';
REVOKE ALL ON FUNCTION session_refresh(refresh_exchange, prepared_event, prepared_event) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session_refresh(refresh_exchange, prepared_event, prepared_event) TO sidle_app;
