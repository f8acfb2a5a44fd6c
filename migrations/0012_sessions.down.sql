DROP FUNCTION certificate_account(text, text);
DROP FUNCTION expire_old_sessions(timestamptz, interval);
DROP FUNCTION session_refresh(bytea, bytea, uuid, bytea, uuid, uuid, timestamptz, interval, interval, interval, uuid, interval, jsonb, bytea, jsonb, bytea);
DROP FUNCTION api_key_exchange(bytea, text, uuid, timestamptz, jsonb, bytea, jsonb, bytea);
CREATE FUNCTION expire_old_sessions() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_expired bigint;
    v_result bigint;
BEGIN
    WITH lapsed AS (
        SELECT s.session_id FROM sessions s WHERE s.status = 'active' AND s.expires_at <= now()
        UNION
        SELECT t.session_id FROM refresh_tokens t JOIN sessions s ON s.session_id = t.session_id
        WHERE t.expires_at <= now() AND t.used_at IS NULL AND s.status = 'active'
        LIMIT 10000
    ), locked AS (
        SELECT s.session_id FROM sessions s JOIN lapsed USING (session_id) WHERE s.status = 'active'
        ORDER BY s.session_id FOR NO KEY UPDATE OF s SKIP LOCKED
    )
    UPDATE sessions s SET status = 'expired', kanidm_refresh_token = NULL FROM locked
        WHERE s.session_id = locked.session_id;
    GET DIAGNOSTICS v_expired = ROW_COUNT;
    -- Until it has expired a used token can betray a theft; after that nobody accepts it anyway.
    DELETE FROM refresh_tokens WHERE refresh_token_id IN (
        SELECT t.refresh_token_id FROM refresh_tokens t WHERE t.expires_at <= now() - interval '1 day' LIMIT 10000);
    DELETE FROM kanidm_logins WHERE expires_at <= now();
    v_result := v_expired;
    PERFORM session_narrow(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION expire_old_sessions() IS 'Marks lapsed sessions and removes expired refresh tokens and begun logins, at most 10,000 of each; tells how many sessions it marked.';
REVOKE ALL ON FUNCTION expire_old_sessions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION expire_old_sessions() TO sidle_app;

CREATE FUNCTION session_refresh(p_token_hash bytea, p_request_hash bytea, p_successor_id uuid, p_successor_hash bytea,
    p_access_jti uuid, p_asked_tenant uuid, p_now timestamptz, p_repeat interval, p_idle interval, p_lease uuid,
    p_lease_time interval, p_event jsonb, p_personal bytea, p_reuse jsonb, p_reuse_personal bytea,
    OUT outcome text, OUT session_id uuid, OUT user_id uuid, OUT tenant_id uuid, OUT audience text, OUT roles text[],
    OUT permissions text[], OUT platform_permissions text[], OUT tokens_valid_from timestamptz,
    OUT must_change_password boolean, OUT expires_at timestamptz, OUT refresh_expires_at timestamptz,
    OUT kanidm_user_id uuid, OUT kanidm_refresh_token bytea)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    t refresh_tokens%ROWTYPE;
    s sessions%ROWTYPE;
    u users%ROWTYPE;
    v_next refresh_tokens%ROWTYPE;
    v_rights record;
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
            IF t.request_hash <> p_request_hash OR v_next.token_hash <> p_successor_hash OR v_next.used_at IS NOT NULL
                    OR t.used_at <= p_now - p_repeat THEN
                PERFORM session_close(s.session_id, 'token_reuse', p_now);
                PERFORM audit_record(p_reuse || jsonb_build_object('tenant_id', s.tenant_id, 'session_id', s.session_id,
                    'target_kind', 'session', 'target_id', s.session_id), p_reuse_personal);
                outcome := 'reuse';
                EXIT body;
            END IF;
            IF p_asked_tenant IS NOT NULL AND p_asked_tenant IS DISTINCT FROM s.tenant_id THEN
                outcome := 'request_id_reused';
                EXIT body;
            END IF;
        END IF;
        IF s.expires_at <= p_now OR (t.used_at IS NULL AND t.expires_at <= p_now) THEN
            UPDATE sessions x SET status = 'expired', kanidm_refresh_token = NULL WHERE x.session_id = s.session_id;
            EXIT body;
        END IF;
        IF u.deleted_at IS NOT NULL OR u.status <> 'active' THEN
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
            refresh_expires_at := least(p_now + p_idle, s.expires_at);
            UPDATE refresh_tokens x SET used_at = p_now, successor_id = p_successor_id, request_hash = p_request_hash
                WHERE x.refresh_token_id = t.refresh_token_id;
            INSERT INTO refresh_tokens (refresh_token_id, token_family, session_id, token_hash, created_at, expires_at)
                VALUES (p_successor_id, t.token_family, s.session_id, p_successor_hash, p_now, refresh_expires_at);
            UPDATE sessions x SET tenant_id = session_refresh.tenant_id, last_activity_at = p_now,
                    idle_expires_at = refresh_expires_at, refresh_token_jti = p_successor_id,
                    refresh_token_hash = p_successor_hash, access_token_jti = p_access_jti, kanidm_lease_id = NULL,
                    kanidm_lease_until = NULL, kanidm_renewed = false
                WHERE x.session_id = s.session_id;
        ELSE
            outcome := 'repeated';
            refresh_expires_at := v_next.expires_at;
            UPDATE sessions x SET access_token_jti = p_access_jti WHERE x.session_id = s.session_id;
        END IF;
        PERFORM audit_record(p_event || jsonb_build_object('tenant_id', tenant_id, 'session_id', s.session_id,
            'actor_kind', 'user', 'actor_id', u.user_id, 'origin_subject', u.user_id, 'personal_subject', u.user_id,
            'target_kind', 'session', 'target_id', s.session_id, 'details',
            coalesce(p_event -> 'details', '{}') || jsonb_build_object('repeated', outcome = 'repeated')), p_personal);
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
COMMENT ON FUNCTION session_refresh(bytea, bytea, uuid, bytea, uuid, uuid, timestamptz, interval, interval, uuid, interval, jsonb, bytea, jsonb, bytea) IS 'Exchanges a refresh token for its successor; repeats the exchange for the call that began it; any other second use ends the session. Sessions through Kanidm first get a lease to renew there.';
REVOKE ALL ON FUNCTION session_refresh(bytea, bytea, uuid, bytea, uuid, uuid, timestamptz, interval, interval, uuid, interval, jsonb, bytea, jsonb, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session_refresh(bytea, bytea, uuid, bytea, uuid, uuid, timestamptz, interval, interval, uuid, interval, jsonb, bytea, jsonb, bytea) TO sidle_app;

CREATE FUNCTION api_key_exchange(p_key_hash bytea, p_now timestamptz, p_event jsonb, p_personal bytea, p_refused jsonb,
    p_refused_personal bytea,
    OUT outcome text, OUT service_account_id uuid, OUT tenant_id uuid, OUT permissions text[],
    OUT tokens_valid_from timestamptz, OUT expires_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    k api_keys%ROWTYPE;
    a service_accounts%ROWTYPE;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO k FROM api_keys x WHERE x.key_hash = p_key_hash;
        IF k.api_key_id IS NULL THEN
            outcome := 'unknown';
            EXIT body;
        END IF;
        SELECT * INTO a FROM service_accounts x WHERE x.service_account_id = k.service_account_id FOR SHARE;
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
COMMENT ON FUNCTION api_key_exchange(bytea, timestamptz, jsonb, bytea, jsonb, bytea) IS 'Checks an API key and tells what it permits: the account''s rights within the key''s scopes. Refused keys that exist are recorded.';
REVOKE ALL ON FUNCTION api_key_exchange(bytea, timestamptz, jsonb, bytea, jsonb, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api_key_exchange(bytea, timestamptz, jsonb, bytea, jsonb, bytea) TO sidle_app;

CREATE OR REPLACE FUNCTION session_open(p_user uuid, p_tenant uuid, p_auth_method text, p_now timestamptz, p_session jsonb)
    RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_session uuid := (p_session ->> 'session_id')::uuid;
    v_hash bytea := decode(p_session ->> 'refresh_token_hash', 'hex');
BEGIN
    INSERT INTO sessions (session_id, user_id, tenant_id, auth_method, audience, persistent, access_token_jti,
        refresh_token_jti, refresh_token_hash, kanidm_session_id, kanidm_refresh_token, device_id, device_type,
        device_platform, device_location, ip_address, user_agent, created_at, last_activity_at, idle_expires_at,
        expires_at)
    VALUES (v_session, p_user, p_tenant, p_auth_method, p_session ->> 'audience', (p_session ->> 'persistent')::boolean,
        (p_session ->> 'access_token_jti')::uuid, (p_session ->> 'refresh_token_id')::uuid, v_hash,
        (p_session ->> 'kanidm_session_id')::uuid, decode(p_session ->> 'kanidm_refresh_token', 'hex'),
        p_session ->> 'device_id', p_session ->> 'device_type', p_session ->> 'device_platform',
        p_session ->> 'device_location', (p_session ->> 'ip_address')::inet, p_session ->> 'user_agent', p_now, p_now,
        (p_session ->> 'idle_expires_at')::timestamptz, (p_session ->> 'expires_at')::timestamptz);
    INSERT INTO refresh_tokens (refresh_token_id, token_family, session_id, token_hash, created_at, expires_at)
    VALUES ((p_session ->> 'refresh_token_id')::uuid, v_session, v_session, v_hash, p_now,
        (p_session ->> 'idle_expires_at')::timestamptz);
END
$$;
COMMENT ON FUNCTION session_open(uuid, uuid, text, timestamptz, jsonb) IS 'Begins a session with its first refresh token.';

DROP TABLE service_account_certificates;
ALTER TABLE api_keys DROP COLUMN kind;
DROP INDEX idx_sessions_expired;
-- Without the word the reason is the nearest one that was known before.
SELECT set_config('sidle.platform', 'on', true);
UPDATE sessions SET revoke_reason = 'user' WHERE revoke_reason = 'session_limit';
ALTER TABLE sessions DROP CONSTRAINT sessions_revoke_reason_check;
ALTER TABLE sessions ADD CONSTRAINT sessions_revoke_reason_check CHECK (revoke_reason IN ('logout', 'user',
    'administrator', 'token_reuse', 'kanidm', 'credential_changed', 'user_disabled', 'rollback'));
