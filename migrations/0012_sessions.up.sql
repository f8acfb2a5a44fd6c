-- Limits and clean-up of sessions; clients' secrets and client certificates of service accounts.

ALTER TABLE sessions DROP CONSTRAINT sessions_revoke_reason_check;
ALTER TABLE sessions ADD CONSTRAINT sessions_revoke_reason_check CHECK (revoke_reason IN ('logout', 'user',
    'administrator', 'token_reuse', 'kanidm', 'credential_changed', 'user_disabled', 'rollback', 'session_limit'));
-- What the clean-up goes by. Neither column changes when a session is refreshed.
CREATE INDEX idx_sessions_expired ON sessions (expires_at) WHERE status = 'expired';

ALTER TABLE api_keys ADD COLUMN kind text NOT NULL DEFAULT 'api_key';
ALTER TABLE api_keys ADD CONSTRAINT api_keys_kind_check CHECK (kind IN ('api_key', 'client_secret'));
COMMENT ON COLUMN api_keys.kind IS 'api_key (names its account by itself) or client_secret (good together with the account''s id only).';

CREATE TABLE service_account_certificates (
    ca_name            text NOT NULL,
    uri                text NOT NULL,
    service_account_id uuid NOT NULL REFERENCES service_accounts,
    tenant_id          uuid REFERENCES tenants,
    created_at         timestamptz NOT NULL,
    created_by         uuid,
    PRIMARY KEY (ca_name, uri),
    CONSTRAINT service_account_certificates_ca_name_check CHECK (ca_name ~ '^[a-z][a-z0-9-]{0,63}$'),
    CONSTRAINT service_account_certificates_uri_check CHECK (length(uri) <= 2048 AND uri !~ '[*[:space:]]')
);
CREATE INDEX idx_service_account_certificates_account ON service_account_certificates (service_account_id);
COMMENT ON TABLE service_account_certificates IS 'Which client certificates act as which service account: the exact URI that stands in them, under a named authority.';
COMMENT ON COLUMN service_account_certificates.ca_name IS 'Name of the authority in the configuration.';
COMMENT ON COLUMN service_account_certificates.uri IS 'The one URI among the certificate''s alternative names, compared byte by byte.';
COMMENT ON COLUMN service_account_certificates.service_account_id IS 'The account that the holder acts as.';
COMMENT ON COLUMN service_account_certificates.tenant_id IS 'Tenant of the service account, repeated for row-level security.';
COMMENT ON COLUMN service_account_certificates.created_at IS 'When it was registered.';
COMMENT ON COLUMN service_account_certificates.created_by IS 'User or service account that registered it; ended with them.';
CREATE INDEX idx_service_account_certificates_created_by ON service_account_certificates (created_by);
ALTER TABLE service_account_certificates ENABLE ROW LEVEL SECURITY;
ALTER TABLE service_account_certificates FORCE ROW LEVEL SECURITY;
CREATE POLICY service_account_certificates_scope ON service_account_certificates
    USING ((SELECT sidle_platform()) OR tenant_id = (SELECT sidle_tenant()));
GRANT SELECT, INSERT, DELETE ON service_account_certificates TO sidle_app;

CREATE OR REPLACE FUNCTION session_open(p_user uuid, p_tenant uuid, p_auth_method text, p_now timestamptz, p_session jsonb)
    RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_session uuid := (p_session ->> 'session_id')::uuid;
    v_hash bytea := decode(p_session ->> 'refresh_token_hash', 'hex');
    v_limit integer := (p_session ->> 'limit')::integer;
    v_over uuid[];
    v_ended uuid[] := '{}';
    v_id uuid;
BEGIN
    -- Whoever begins a session holds the user's row, so the count is right however many begin at once.
    IF v_limit > 0 THEN
        v_over := ARRAY(SELECT s.session_id FROM sessions s
            WHERE s.user_id = p_user AND s.status = 'active' AND least(s.expires_at, s.idle_expires_at) > p_now
            ORDER BY s.last_activity_at DESC, s.session_id DESC OFFSET v_limit - 1);
        FOREACH v_id IN ARRAY v_over LOOP
            IF session_close(v_id, 'session_limit', p_now) THEN
                v_ended := v_ended || v_id;
            END IF;
        END LOOP;
        IF cardinality(v_ended) > 0 THEN
            PERFORM audit_record((p_session -> 'limit_event') || jsonb_build_object('tenant_id', p_tenant,
                'target_kind', 'user', 'target_id', p_user, 'session_id', v_session, 'details',
                jsonb_build_object('sessions', to_jsonb(v_ended), 'limit', v_limit)), NULL);
        END IF;
    END IF;
    INSERT INTO sessions (session_id, user_id, tenant_id, auth_method, audience, persistent, access_token_jti,
        refresh_token_jti, refresh_token_hash, kanidm_session_id, kanidm_refresh_token, device_id, device_type,
        device_platform, device_location, device_fingerprint, ip_address, user_agent, created_at, last_activity_at, idle_expires_at,
        expires_at)
    VALUES (v_session, p_user, p_tenant, p_auth_method, p_session ->> 'audience', (p_session ->> 'persistent')::boolean,
        (p_session ->> 'access_token_jti')::uuid, (p_session ->> 'refresh_token_id')::uuid, v_hash,
        (p_session ->> 'kanidm_session_id')::uuid, decode(p_session ->> 'kanidm_refresh_token', 'hex'),
        p_session ->> 'device_id', p_session ->> 'device_type', p_session ->> 'device_platform',
        p_session ->> 'device_location', p_session ->> 'device_fingerprint', (p_session ->> 'ip_address')::inet, p_session ->> 'user_agent', p_now, p_now,
        (p_session ->> 'idle_expires_at')::timestamptz, (p_session ->> 'expires_at')::timestamptz);
    INSERT INTO refresh_tokens (refresh_token_id, token_family, session_id, token_hash, tenant_id, access_until, created_at,
        expires_at)
    VALUES ((p_session ->> 'refresh_token_id')::uuid, v_session, v_session, v_hash, p_tenant,
        (p_session ->> 'access_until')::timestamptz, p_now, (p_session ->> 'idle_expires_at')::timestamptz);
END
$$;
COMMENT ON FUNCTION session_open(uuid, uuid, text, timestamptz, jsonb) IS 'Begins a session with its first refresh token; the sessions beyond the limit that were used longest ago end.';

DROP FUNCTION api_key_exchange(bytea, timestamptz, jsonb, bytea, jsonb, bytea);
CREATE FUNCTION api_key_exchange(p_key_hash bytea, p_kind text, p_account uuid, p_now timestamptz, p_event jsonb,
    p_personal bytea, p_refused jsonb, p_refused_personal bytea,
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
        -- A client's secret is good together with that client's id only.
        IF k.api_key_id IS NULL OR k.kind <> p_kind OR (p_account IS NOT NULL AND k.service_account_id <> p_account) THEN
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
COMMENT ON FUNCTION api_key_exchange(bytea, text, uuid, timestamptz, jsonb, bytea, jsonb, bytea) IS 'Checks an API key or a client''s secret and tells what it permits: the account''s rights within the key''s scopes. Refused keys that exist are recorded.';
REVOKE ALL ON FUNCTION api_key_exchange(bytea, text, uuid, timestamptz, jsonb, bytea, jsonb, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api_key_exchange(bytea, text, uuid, timestamptz, jsonb, bytea, jsonb, bytea) TO sidle_app;

DROP FUNCTION session_refresh(bytea, bytea, uuid, bytea, uuid, uuid, timestamptz, interval, interval, uuid, interval, jsonb, bytea, jsonb, bytea);
CREATE FUNCTION session_refresh(p_token_hash bytea, p_request_hash bytea, p_successor_id uuid, p_successor_hash bytea,
    p_access_jti uuid, p_asked_tenant uuid, p_now timestamptz, p_repeat interval, p_idle interval,
    p_persistent_idle interval, p_lease uuid, p_lease_time interval, p_event jsonb, p_personal bytea, p_reuse jsonb, p_reuse_personal bytea,
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
        -- What an administrator locked is shut; a lock after failures only keeps guesses out.
        IF u.deleted_at IS NOT NULL OR u.status <> 'active'
                OR (u.locked_until > p_now AND u.lock_reason = 'administrator') THEN
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
COMMENT ON FUNCTION session_refresh(bytea, bytea, uuid, bytea, uuid, uuid, timestamptz, interval, interval, interval, uuid, interval, jsonb, bytea, jsonb, bytea) IS 'Exchanges a refresh token for its successor; repeats the exchange for the call that began it; any other second use ends the session. Sessions through Kanidm first get a lease to renew there.';
REVOKE ALL ON FUNCTION session_refresh(bytea, bytea, uuid, bytea, uuid, uuid, timestamptz, interval, interval, interval, uuid, interval, jsonb, bytea, jsonb, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session_refresh(bytea, bytea, uuid, bytea, uuid, uuid, timestamptz, interval, interval, interval, uuid, interval, jsonb, bytea, jsonb, bytea) TO sidle_app;

-- Who holds a client certificate. Asked before anybody is known, so it looks over every tenant, at one row.
CREATE FUNCTION certificate_account(p_ca text, p_uri text,
    OUT service_account_id uuid, OUT tenant_id uuid, OUT permissions text[], OUT tokens_valid_from timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    a service_accounts%ROWTYPE;
BEGIN
    -- Held as an exchange of a key holds it: whoever is changing the account comes entirely before this or after it.
    SELECT x.* INTO a FROM service_account_certificates c
        JOIN service_accounts x ON x.service_account_id = c.service_account_id
        WHERE c.ca_name = p_ca AND c.uri = p_uri FOR SHARE OF x;
    IF a.deleted_at IS NULL AND a.status = 'active'
            AND EXISTS (SELECT FROM service_account_certificates c
                WHERE c.ca_name = p_ca AND c.uri = p_uri AND c.service_account_id = a.service_account_id)
            AND (a.tenant_id IS NULL OR EXISTS (SELECT FROM tenants t
                WHERE t.tenant_id = a.tenant_id AND t.status = 'active' AND t.deleted_at IS NULL)) THEN
        service_account_id := a.service_account_id;
        tenant_id := a.tenant_id;
        permissions := a.permissions;
        tokens_valid_from := a.tokens_valid_from;
    END IF;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION certificate_account(text, text) IS 'The service account that a client certificate of this authority with this URI acts as, and what it may do; nothing when there is none that can be used.';
REVOKE ALL ON FUNCTION certificate_account(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION certificate_account(text, text) TO sidle_app;

DROP FUNCTION expire_old_sessions();
CREATE FUNCTION expire_old_sessions(p_now timestamptz, p_keep interval) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_expired bigint;
BEGIN
    WITH lapsed AS (
        SELECT s.session_id FROM sessions s WHERE s.status = 'active' AND s.expires_at <= p_now
        UNION
        SELECT t.session_id FROM refresh_tokens t JOIN sessions s ON s.session_id = t.session_id
        WHERE t.expires_at <= p_now AND t.used_at IS NULL AND s.status = 'active'
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
        SELECT t.refresh_token_id FROM refresh_tokens t WHERE t.expires_at <= p_now - interval '1 day' LIMIT 10000);
    -- Sessions that ended are shown for a while; their refresh tokens go with them.
    DELETE FROM sessions WHERE session_id IN (
        SELECT s.session_id FROM sessions s
        WHERE (s.status = 'expired' AND s.expires_at <= p_now - p_keep) OR s.revoked_at <= p_now - p_keep
        LIMIT 10000 FOR UPDATE SKIP LOCKED);
    DELETE FROM kanidm_logins WHERE expires_at <= p_now;
    DELETE FROM request_answers WHERE (principal_id, method, request_id) IN (
        SELECT r.principal_id, r.method, r.request_id FROM request_answers r
        WHERE r.created_at <= p_now - interval '24 hours' LIMIT 10000);
    PERFORM session_narrow(v_scope);
    RETURN v_expired;
END
$$;
COMMENT ON FUNCTION expire_old_sessions(timestamptz, interval) IS 'Marks lapsed sessions; removes those that ended longer ago than is kept, expired refresh tokens, begun logins and answers to repeated calls: at most 10,000 of each. Tells how many sessions it marked.';
REVOKE ALL ON FUNCTION expire_old_sessions(timestamptz, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION expire_old_sessions(timestamptz, interval) TO sidle_app;
