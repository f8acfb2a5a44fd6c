-- Signing keys, sessions, refresh tokens, logins through Kanidm, and the functions of the hot calls: each is one
-- statement for the service, so that a login or a refresh is one round trip and happens entirely or not at all, with
-- its audit event.
--
-- The functions see every tenant, because whoever signs in has none yet. They lock a user before the user's sessions,
-- always in this order, so that they wait for one another instead of for each other.

CREATE TABLE signing_keys (
    kid          uuid PRIMARY KEY,
    algorithm    text NOT NULL,
    private_key  bytea NOT NULL,
    state        text NOT NULL,
    created_at   timestamptz NOT NULL,
    activated_at timestamptz,
    retiring_at  timestamptz,
    retired_at   timestamptz,
    CONSTRAINT signing_keys_algorithm_check CHECK (algorithm IN ('EdDSA', 'ES256', 'RS256')),
    CONSTRAINT signing_keys_state_check CHECK (state IN ('pending', 'active', 'retiring', 'retired')),
    CONSTRAINT signing_keys_times_check CHECK (
        (state = 'pending' OR activated_at IS NOT NULL) AND (state <> 'retired' OR retired_at IS NOT NULL))
);
-- Replicas that start together agree on the first key by this index.
CREATE UNIQUE INDEX signing_keys_active_key ON signing_keys (state) WHERE state = 'active';
COMMENT ON TABLE signing_keys IS 'Keys that sign access tokens.';
COMMENT ON COLUMN signing_keys.kid IS 'Identifier of the key in token headers and in the published key set.';
COMMENT ON COLUMN signing_keys.algorithm IS 'The one algorithm the key is used with: EdDSA (Ed25519), ES256 or RS256.';
COMMENT ON COLUMN signing_keys.private_key IS 'PKCS#8 private key, sealed; the public key is derived from it, never stored.';
COMMENT ON COLUMN signing_keys.state IS 'pending (published, not yet used), active (signs), retiring (only verifies) or retired.';
COMMENT ON COLUMN signing_keys.created_at IS 'When the key was made.';
COMMENT ON COLUMN signing_keys.activated_at IS 'When it began to sign.';
COMMENT ON COLUMN signing_keys.retiring_at IS 'When it stopped signing.';
COMMENT ON COLUMN signing_keys.retired_at IS 'When it stopped verifying.';

CREATE TABLE sessions (
    session_id           uuid PRIMARY KEY,
    user_id              uuid NOT NULL REFERENCES users,
    tenant_id            uuid REFERENCES tenants,
    auth_method          varchar(50) NOT NULL DEFAULT 'jwt',
    status               text NOT NULL DEFAULT 'active',
    audience             text NOT NULL,
    persistent           boolean NOT NULL DEFAULT false,
    access_token_jti     uuid,
    access_token_hash    bytea,
    refresh_token_jti    uuid,
    refresh_token_hash   bytea,
    kanidm_session_id    uuid,
    kanidm_refresh_token bytea,
    kanidm_lease_id      uuid,
    kanidm_lease_until   timestamptz,
    kanidm_renewed       boolean NOT NULL DEFAULT false,
    device_id            text,
    device_type          text,
    device_platform      text,
    device_location      text,
    device_fingerprint   text,
    ip_address           inet,
    user_agent           text,
    created_at           timestamptz NOT NULL,
    last_activity_at     timestamptz NOT NULL,
    idle_expires_at      timestamptz NOT NULL,
    expires_at           timestamptz NOT NULL,
    revoked_at           timestamptz,
    revoke_reason        text,
    CONSTRAINT sessions_auth_method_check CHECK (auth_method IN ('jwt', 'kanidm', 'dual')),
    CONSTRAINT sessions_status_check CHECK (status IN ('active', 'revoked', 'expired')),
    CONSTRAINT sessions_revoked_check CHECK ((status = 'revoked') = (revoked_at IS NOT NULL)),
    CONSTRAINT sessions_revoke_reason_check CHECK (revoke_reason IN ('logout', 'user', 'administrator', 'token_reuse',
        'kanidm', 'credential_changed', 'user_disabled', 'rollback')),
    CONSTRAINT sessions_device_type_check CHECK (device_type IN ('desktop', 'phone', 'tablet', 'service', 'other'))
) WITH (fillfactor = 85);
-- None of the indexed columns changes when a session is refreshed, so that a refresh stays on its page.
CREATE INDEX idx_sessions_user ON sessions (user_id, session_id);
CREATE INDEX idx_sessions_tenant ON sessions (tenant_id, session_id);
CREATE INDEX idx_sessions_kanidm_session ON sessions (kanidm_session_id) WHERE kanidm_session_id IS NOT NULL;
CREATE INDEX idx_sessions_revoked_at ON sessions (revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX idx_sessions_expires_at ON sessions (expires_at) WHERE status = 'active';
COMMENT ON TABLE sessions IS 'Logins of users, each from its beginning until it ends.';
COMMENT ON COLUMN sessions.session_id IS 'UUIDv7 of the session; sid of its access tokens.';
COMMENT ON COLUMN sessions.user_id IS 'Whose session it is.';
COMMENT ON COLUMN sessions.tenant_id IS 'Tenant it acts in now; null for platform administrators without any.';
COMMENT ON COLUMN sessions.auth_method IS 'Which side vouched for the user: jwt (password), kanidm (OIDC), dual (both in one sitting).';
COMMENT ON COLUMN sessions.status IS 'active, revoked or expired. A session may lapse before it is marked expired: see expires_at and idle_expires_at.';
COMMENT ON COLUMN sessions.audience IS 'Audience of all of its access tokens.';
COMMENT ON COLUMN sessions.persistent IS 'Whether the user asked to be remembered.';
COMMENT ON COLUMN sessions.access_token_jti IS 'jti of the newest access token.';
COMMENT ON COLUMN sessions.access_token_hash IS 'SHA-256 of the access token; null, since access tokens are verified by signature. Sessions brought from elsewhere may have one.';
COMMENT ON COLUMN sessions.refresh_token_jti IS 'Id of the refresh token that is good now.';
COMMENT ON COLUMN sessions.refresh_token_hash IS 'SHA-256 of the refresh token that is good now.';
COMMENT ON COLUMN sessions.kanidm_session_id IS 'Kanidm''s own session behind this one.';
COMMENT ON COLUMN sessions.kanidm_refresh_token IS 'Kanidm''s refresh token, sealed; null for sessions that Kanidm does not vouch for.';
COMMENT ON COLUMN sessions.kanidm_lease_id IS 'Who is renewing the session at Kanidm: its tokens rotate, so one at a time.';
COMMENT ON COLUMN sessions.kanidm_lease_until IS 'When another may try.';
COMMENT ON COLUMN sessions.kanidm_renewed IS 'Whether the holder of the lease has renewed it.';
COMMENT ON COLUMN sessions.device_id IS 'The application''s own identifier of the device.';
COMMENT ON COLUMN sessions.device_type IS 'desktop, phone, tablet, service or other.';
COMMENT ON COLUMN sessions.device_platform IS 'Operating system or platform.';
COMMENT ON COLUMN sessions.device_location IS 'Where the device was, as the application told.';
COMMENT ON COLUMN sessions.device_fingerprint IS 'Digest of what recognises the device; shown, never trusted.';
COMMENT ON COLUMN sessions.ip_address IS 'Address of the client that signed in.';
COMMENT ON COLUMN sessions.user_agent IS 'User agent of the client that signed in.';
COMMENT ON COLUMN sessions.created_at IS 'When it began.';
COMMENT ON COLUMN sessions.last_activity_at IS 'When its tokens were renewed last.';
COMMENT ON COLUMN sessions.idle_expires_at IS 'When it ends unless its tokens are renewed; the expiry of its refresh token.';
COMMENT ON COLUMN sessions.expires_at IS 'When it ends however much it is used.';
COMMENT ON COLUMN sessions.revoked_at IS 'When it was ended before its time.';
COMMENT ON COLUMN sessions.revoke_reason IS 'Why it was ended before its time.';

CREATE TABLE refresh_tokens (
    refresh_token_id uuid PRIMARY KEY,
    token_family     uuid NOT NULL,
    session_id       uuid NOT NULL REFERENCES sessions ON DELETE CASCADE,
    token_hash       bytea NOT NULL,
    -- Without a reference: every refresh would lock the tenant's row for it.
    tenant_id        uuid,
    access_until     timestamptz,
    created_at       timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL,
    used_at          timestamptz,
    successor_id     uuid,
    request_hash     bytea,
    revoked_at       timestamptz,
    CONSTRAINT refresh_tokens_token_hash_check CHECK (octet_length(token_hash) = 32),
    CONSTRAINT refresh_tokens_used_check CHECK (
        (used_at IS NULL) = (successor_id IS NULL) AND (used_at IS NULL) = (request_hash IS NULL))
);
CREATE UNIQUE INDEX refresh_tokens_token_hash_key ON refresh_tokens (token_hash);
-- A family has at most one branch that lives: the database holds the rotation to it.
CREATE UNIQUE INDEX refresh_tokens_live_key ON refresh_tokens (token_family) WHERE used_at IS NULL AND revoked_at IS NULL;
CREATE INDEX idx_refresh_tokens_session ON refresh_tokens (session_id);
CREATE INDEX idx_refresh_tokens_expires_at ON refresh_tokens (expires_at);
COMMENT ON TABLE refresh_tokens IS 'Refresh tokens, used ones as well: a second use tells of theft.';
COMMENT ON COLUMN refresh_tokens.refresh_token_id IS 'UUIDv7 of the token.';
COMMENT ON COLUMN refresh_tokens.token_family IS 'The chain of tokens that replaced one another since the login.';
COMMENT ON COLUMN refresh_tokens.session_id IS 'Session of the token.';
COMMENT ON COLUMN refresh_tokens.token_hash IS 'SHA-256 of the token, which has 256 random bits.';
COMMENT ON COLUMN refresh_tokens.created_at IS 'When it was handed out.';
COMMENT ON COLUMN refresh_tokens.expires_at IS 'When it stops being accepted.';
COMMENT ON COLUMN refresh_tokens.tenant_id IS 'Tenant of the access tokens that were handed out with it; null for none.';
COMMENT ON COLUMN refresh_tokens.access_until IS 'When the last of those access tokens has expired: until then the session is that tenant''s to end as well.';
COMMENT ON COLUMN refresh_tokens.used_at IS 'When it was exchanged for its successor.';
COMMENT ON COLUMN refresh_tokens.successor_id IS 'The token it was exchanged for.';
COMMENT ON COLUMN refresh_tokens.request_hash IS 'SHA-256 of the request_id of the exchange: only the same call may repeat it.';
COMMENT ON COLUMN refresh_tokens.revoked_at IS 'When it was revoked unused.';

CREATE TABLE kanidm_logins (
    login_id      uuid PRIMARY KEY,
    state_hash    bytea NOT NULL,
    secret_hash   bytea NOT NULL,
    nonce_hash    bytea NOT NULL,
    pkce_verifier bytea NOT NULL,
    redirect_uri  text NOT NULL,
    request       jsonb NOT NULL,
    created_at    timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL
);
CREATE UNIQUE INDEX kanidm_logins_state_hash_key ON kanidm_logins (state_hash);
CREATE INDEX idx_kanidm_logins_expires_at ON kanidm_logins (expires_at);
COMMENT ON TABLE kanidm_logins IS 'Logins that were begun and are at Kanidm; a row goes when its login is completed.';
COMMENT ON COLUMN kanidm_logins.login_id IS 'UUIDv7 of the attempt.';
COMMENT ON COLUMN kanidm_logins.state_hash IS 'SHA-256 of the state that went through the browser.';
COMMENT ON COLUMN kanidm_logins.secret_hash IS 'SHA-256 of the secret that only the client has which began the login.';
COMMENT ON COLUMN kanidm_logins.nonce_hash IS 'SHA-256 of the nonce that the ID token must repeat.';
COMMENT ON COLUMN kanidm_logins.pkce_verifier IS 'PKCE verifier, sealed.';
COMMENT ON COLUMN kanidm_logins.redirect_uri IS 'Where Kanidm sent the browser; repeated when the code is exchanged.';
COMMENT ON COLUMN kanidm_logins.request IS 'What was asked for: tenant, audience, device, persistent.';
COMMENT ON COLUMN kanidm_logins.created_at IS 'When the login began.';
COMMENT ON COLUMN kanidm_logins.expires_at IS 'When it lapses.';

-- Revocations are loaded by these when a replica starts.
CREATE INDEX idx_users_tokens_valid_from ON users (tokens_valid_from) WHERE tokens_valid_from IS NOT NULL;
CREATE INDEX idx_service_accounts_tokens_valid_from ON service_accounts (tokens_valid_from) WHERE tokens_valid_from IS NOT NULL;

ALTER TABLE signing_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE signing_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY signing_keys_scope ON signing_keys USING ((SELECT sidle_platform()));
ALTER TABLE sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY sessions_scope ON sessions
    USING ((SELECT sidle_platform()) OR tenant_id = (SELECT sidle_tenant()));
ALTER TABLE refresh_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE refresh_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY refresh_tokens_scope ON refresh_tokens USING ((SELECT sidle_platform()));
ALTER TABLE kanidm_logins ENABLE ROW LEVEL SECURITY;
ALTER TABLE kanidm_logins FORCE ROW LEVEL SECURITY;
CREATE POLICY kanidm_logins_scope ON kanidm_logins USING ((SELECT sidle_platform()));

-- Sessions and refresh tokens change through the functions below and in no other way.
GRANT SELECT ON sessions TO sidle_app;
GRANT SELECT, INSERT, UPDATE ON signing_keys TO sidle_app;
GRANT SELECT, INSERT, DELETE ON kanidm_logins TO sidle_app;

-- Helpers of the functions below, which alone call them.

CREATE FUNCTION session_widen() RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := coalesce(current_setting('sidle.platform', true), '');
BEGIN
    -- An owner who is not a superuser cannot declare this with SET on the functions themselves.
    PERFORM set_config('sidle.platform', 'on', true);
    RETURN v_scope;
END
$$;
COMMENT ON FUNCTION session_widen() IS 'Opens the view over every tenant for the rest of a function, and gives the scope to go back to.';

CREATE FUNCTION session_narrow(p_scope text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public
    AS $$
BEGIN
    PERFORM set_config('sidle.platform', p_scope, true);
END
$$;
COMMENT ON FUNCTION session_narrow(text) IS 'Goes back to the scope that session_widen gave.';

CREATE FUNCTION session_rights(p_user uuid, p_tenant uuid,
    OUT member boolean, OUT roles text[], OUT permissions text[], OUT platform_permissions text[])
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, public
    AS $$
    SELECT EXISTS (SELECT FROM memberships m JOIN tenants t ON t.tenant_id = m.tenant_id
            WHERE m.user_id = p_user AND m.tenant_id = p_tenant AND t.status = 'active' AND t.deleted_at IS NULL),
        ARRAY(SELECT CASE WHEN r.tenant_id IS NULL THEN r.name ELSE 'tenant/' || r.name END
            FROM memberships m JOIN roles r ON r.role_id = m.role_id
            WHERE m.user_id = p_user AND m.tenant_id = p_tenant
            UNION SELECT 'platform/' || r.name FROM platform_grants g JOIN roles r ON r.role_id = g.role_id
            WHERE g.user_id = p_user ORDER BY 1),
        ARRAY(SELECT DISTINCT permission FROM memberships m JOIN roles r ON r.role_id = m.role_id,
                unnest(r.permissions) permission
            WHERE m.user_id = p_user AND m.tenant_id = p_tenant AND NOT r.is_platform ORDER BY 1),
        ARRAY(SELECT DISTINCT permission FROM platform_grants g JOIN roles r ON r.role_id = g.role_id,
                unnest(r.permissions) permission
            WHERE g.user_id = p_user AND r.is_platform ORDER BY 1)
$$;
COMMENT ON FUNCTION session_rights(uuid, uuid) IS 'What a user is and may do in a tenant and on the platform, as it is now.';

CREATE FUNCTION session_tenant(p_user uuid, p_home uuid, p_asked uuid,
    OUT outcome text, OUT tenant_id uuid, OUT choices uuid[])
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, public
    AS $$
BEGIN
    choices := ARRAY(SELECT DISTINCT m.tenant_id FROM memberships m JOIN tenants t ON t.tenant_id = m.tenant_id
        WHERE m.user_id = p_user AND t.status = 'active' AND t.deleted_at IS NULL ORDER BY 1);
    tenant_id := coalesce(p_asked, p_home);
    IF tenant_id = ANY (choices) THEN
        outcome := 'found';
    ELSIF p_asked IS NOT NULL THEN
        outcome := 'no_tenant';
    ELSIF cardinality(choices) = 1 THEN
        outcome := 'found';
        tenant_id := choices[1];
    ELSIF cardinality(choices) > 1 THEN
        outcome := 'tenant_required';
    ELSE
        tenant_id := NULL;
        outcome := CASE WHEN EXISTS (SELECT FROM platform_grants g WHERE g.user_id = p_user)
            THEN 'found' ELSE 'no_tenant' END;
    END IF;
END
$$;
COMMENT ON FUNCTION session_tenant(uuid, uuid, uuid) IS 'The tenant that a login acts in: asked for, else home, else the only one; none only for platform administrators.';

CREATE FUNCTION session_open(p_user uuid, p_tenant uuid, p_auth_method text, p_now timestamptz, p_session jsonb)
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

CREATE FUNCTION session_close(p_session uuid, p_reason text, p_now timestamptz) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public
    AS $$
BEGIN
    UPDATE sessions SET status = 'revoked', revoked_at = p_now, revoke_reason = p_reason, kanidm_refresh_token = NULL
        WHERE session_id = p_session AND status = 'active';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE refresh_tokens SET revoked_at = p_now
        WHERE token_family = p_session AND used_at IS NULL AND revoked_at IS NULL;
    RETURN true;
END
$$;
COMMENT ON FUNCTION session_close(uuid, text, timestamptz) IS 'Ends a session with its refresh token family; false when it had ended before.';

CREATE FUNCTION session_sync_groups(p_user uuid, p_groups uuid[], p_now timestamptz, p_event jsonb) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_added integer;
    v_removed integer;
    v_revoked timestamptz;
BEGIN
    -- What Sidle put into a group and took away again gives nothing back, however long the group holds it.
    p_groups := ARRAY(SELECT given FROM unnest(p_groups) given WHERE NOT EXISTS (SELECT FROM kanidm_projections p
        WHERE p.user_id = p_user AND p.kanidm_group_uuid = given AND p.withdrawn_at IS NOT NULL));
    WITH gone AS (
        DELETE FROM memberships m
        WHERE m.user_id = p_user AND m.source = 'kanidm' AND NOT EXISTS (
            SELECT FROM kanidm_tenant_groups g
            WHERE g.kanidm_group_uuid = ANY (p_groups) AND g.tenant_id = m.tenant_id AND g.role_id = m.role_id)
        RETURNING 1)
    SELECT count(*) INTO v_removed FROM gone;
    WITH made AS (
        INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source, created_at)
        SELECT gen_random_uuid(), g.tenant_id, p_user, g.role_id, 'kanidm', p_now
        FROM kanidm_tenant_groups g JOIN roles r ON r.role_id = g.role_id
        -- Whatever an administrator writes into the mapping: a group never gives a role over every tenant.
        WHERE g.kanidm_group_uuid = ANY (p_groups) AND NOT r.is_platform
        ON CONFLICT DO NOTHING
        RETURNING 1)
    SELECT count(*) INTO v_added FROM made;
    IF v_removed > 0 THEN
        v_revoked := tokens_revoke(ARRAY[p_user], NULL);
    END IF;
    IF v_added + v_removed > 0 THEN
        PERFORM audit_record(p_event || jsonb_build_object('details', coalesce(p_event -> 'details', '{}')
            || jsonb_build_object('added', v_added, 'removed', v_removed)
            || CASE WHEN v_removed > 0
                THEN jsonb_build_object('tokens_valid_from', (extract(epoch FROM v_revoked) * 1000000)::bigint)
                ELSE '{}' END), NULL);
    END IF;
    RETURN v_removed > 0;
END
$$;
COMMENT ON FUNCTION session_sync_groups(uuid, uuid[], timestamptz, jsonb) IS 'Makes a user''s memberships from Kanidm those of these groups, which are known by recorded uuid, but for those that Sidle took the user out of; when one went, ends access tokens and says so.';

REVOKE ALL ON FUNCTION session_widen(), session_narrow(text), session_rights(uuid, uuid), session_tenant(uuid, uuid, uuid),
    session_open(uuid, uuid, text, timestamptz, jsonb), session_close(uuid, text, timestamptz),
    session_sync_groups(uuid, uuid[], timestamptz, jsonb) FROM PUBLIC;

-- Password login: begin before the hash, finish or refuse after it.

CREATE FUNCTION login_begin(p_identifier text, p_now timestamptz, p_max_attempts integer, p_lock interval,
    OUT user_id uuid, OUT tenant_id uuid, OUT password_hash text, OUT attempt integer, OUT refusal text,
    OUT highest_cost smallint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    u users%ROWTYPE;
BEGIN
    <<body>>
    BEGIN
        SELECT max(x.password_cost) INTO highest_cost FROM users x;
        IF position('@' IN p_identifier) > 0 THEN
            SELECT * INTO u FROM users x WHERE x.email_key = p_identifier AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        ELSE
            SELECT * INTO u FROM users x WHERE x.username_key = p_identifier AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        END IF;
        user_id := u.user_id;
        tenant_id := u.tenant_id;
        refusal := CASE
            WHEN u.user_id IS NULL THEN 'unknown'
            WHEN u.locked_until > p_now THEN 'locked'
            WHEN u.status = 'disabled' THEN 'disabled'
            WHEN u.status <> 'active' THEN 'unverified'
            WHEN u.auth_method = 'kanidm' THEN 'kanidm_only'
            WHEN u.password_hash IS NULL THEN 'no_password'
        END;
        IF refusal IS NOT NULL THEN
            EXIT body;
        END IF;
        -- A lock that has run out begins a new count; the row is locked, so attempts that come together count one by one.
        attempt := CASE WHEN u.locked_until IS NULL THEN u.failed_login_attempts ELSE 0 END + 1;
        UPDATE users x SET failed_login_attempts = attempt,
                locked_until = CASE WHEN attempt >= p_max_attempts THEN p_now + p_lock END,
                lock_reason = CASE WHEN attempt >= p_max_attempts THEN 'too_many_failures' END
            WHERE x.user_id = u.user_id;
        password_hash := u.password_hash;
    END body;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION login_begin(text, timestamptz, integer, interval) IS 'Finds a user by e-mail address or username and reserves an attempt, or says why not; the last attempt locks until it is known to be right.';

CREATE FUNCTION login_refuse(p_event jsonb, p_personal bytea, p_lock_event jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    PERFORM audit_record(p_event, p_personal);
    IF p_lock_event IS NOT NULL THEN
        PERFORM audit_record(p_lock_event, NULL);
    END IF;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION login_refuse(jsonb, bytea, jsonb) IS 'Records a refused login, and the lock that it led to.';

CREATE FUNCTION login_finish(p_user uuid, p_password_hash text, p_asked_tenant uuid, p_now timestamptz, p_session jsonb,
    p_event jsonb, p_personal bytea, p_refused jsonb, p_refused_personal bytea,
    OUT outcome text, OUT tenant_id uuid, OUT choices uuid[], OUT roles text[], OUT permissions text[],
    OUT platform_permissions text[], OUT tokens_valid_from timestamptz, OUT must_change_password boolean,
    OUT email text, OUT username text, OUT full_name text, OUT auth_method text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    u users%ROWTYPE;
    v_tenant record;
    v_rights record;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
        -- While the hash was computed the user may have been disabled, moved to Kanidm or given another password.
        IF u.deleted_at IS NOT NULL OR u.status <> 'active' OR u.auth_method = 'kanidm'
                OR u.password_hash IS DISTINCT FROM p_password_hash
                OR (u.locked_until > p_now AND u.lock_reason = 'administrator') THEN
            PERFORM audit_record(p_refused || '{"reason": "changed_meanwhile"}', p_refused_personal);
            outcome := 'refused';
            EXIT body;
        END IF;
        UPDATE users x SET failed_login_attempts = 0, locked_until = NULL, lock_reason = NULL WHERE x.user_id = p_user;
        SELECT * INTO v_tenant FROM session_tenant(p_user, u.tenant_id, p_asked_tenant);
        choices := v_tenant.choices;
        IF v_tenant.outcome <> 'found' THEN
            PERFORM audit_record(p_refused || jsonb_build_object('reason', v_tenant.outcome), p_refused_personal);
            outcome := v_tenant.outcome;
            EXIT body;
        END IF;
        UPDATE users x SET last_login_at = p_now WHERE x.user_id = p_user;
        PERFORM session_open(p_user, v_tenant.tenant_id, 'jwt', p_now, p_session);
        PERFORM audit_record(p_event || jsonb_build_object('tenant_id', v_tenant.tenant_id), p_personal);
        SELECT * INTO v_rights FROM session_rights(p_user, v_tenant.tenant_id);
        outcome := 'signed_in';
        tenant_id := v_tenant.tenant_id;
        roles := v_rights.roles;
        permissions := v_rights.permissions;
        platform_permissions := v_rights.platform_permissions;
        tokens_valid_from := u.tokens_valid_from;
        must_change_password := u.must_change_password;
        email := u.email;
        username := u.username;
        full_name := u.full_name;
        auth_method := u.auth_method;
    END body;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION login_finish(uuid, text, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea) IS 'After the right password: forgets the failures, begins a session and tells what the user may do.';

-- API keys.

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

-- Refresh.

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

CREATE FUNCTION session_kanidm_renewed(p_session uuid, p_lease uuid, p_kanidm_refresh_token bytea, p_groups uuid[],
    p_now timestamptz, p_event jsonb, OUT ended uuid, OUT tokens_valid_from timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_user uuid;
BEGIN
    SELECT s.user_id INTO v_user FROM sessions s WHERE s.session_id = p_session;
    PERFORM FROM users u WHERE u.user_id = v_user FOR NO KEY UPDATE;
    UPDATE sessions s SET kanidm_refresh_token = p_kanidm_refresh_token, kanidm_renewed = true
        WHERE s.session_id = p_session AND s.kanidm_lease_id = p_lease AND s.status = 'active';
    IF FOUND THEN
        IF session_sync_groups(v_user, p_groups, p_now, p_event
                || jsonb_build_object('target_kind', 'user', 'target_id', v_user, 'session_id', p_session)) THEN
            ended := v_user;
            SELECT u.tokens_valid_from INTO tokens_valid_from FROM users u WHERE u.user_id = v_user;
        END IF;
        UPDATE users u SET kanidm_synced_at = p_now WHERE u.user_id = v_user;
    END IF;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION session_kanidm_renewed(uuid, uuid, bytea, uuid[], timestamptz, jsonb) IS 'Keeps what renewing a session at Kanidm gave: the next refresh token and the groups. Gives the user when that revoked their access tokens, and by which time.';

CREATE FUNCTION session_kanidm_released(p_session uuid, p_lease uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    UPDATE sessions SET kanidm_lease_id = NULL, kanidm_lease_until = NULL
        WHERE session_id = p_session AND kanidm_lease_id = p_lease;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION session_kanidm_released(uuid, uuid) IS 'Gives a lease back when Kanidm could not be reached, so that the next attempt need not wait.';

-- Ending sessions.

CREATE FUNCTION session_end(p_session uuid, p_reason text, p_now timestamptz, p_event jsonb, p_personal bytea)
    RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_tenant uuid;
    v_result boolean;
BEGIN
    <<body>>
    BEGIN
        SELECT s.tenant_id INTO v_tenant FROM sessions s WHERE s.session_id = p_session FOR NO KEY UPDATE;
        IF v_scope <> 'on' AND v_tenant IS DISTINCT FROM sidle_tenant() THEN
            v_result := false;
            EXIT body;
        END IF;
        IF NOT session_close(p_session, p_reason, p_now) THEN
            v_result := false;
            EXIT body;
        END IF;
        PERFORM audit_record(p_event || jsonb_build_object('tenant_id', v_tenant, 'target_kind', 'session',
            'target_id', p_session), p_personal);
        v_result := true;
    END body;
    PERFORM session_narrow(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION session_end(uuid, text, timestamptz, jsonb, bytea) IS 'Ends one session and records it; false when it had ended before. In a tenant''s transaction only sessions of that tenant.';

CREATE FUNCTION session_end_all(p_user uuid, p_except uuid, p_reason text, p_now timestamptz) RETURNS uuid[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_session uuid;
    v_ended uuid[] := '{}';
BEGIN
    FOR v_session IN
        SELECT s.session_id FROM sessions s JOIN users u ON u.user_id = s.user_id
        WHERE s.user_id = p_user AND s.status = 'active' AND s.session_id IS DISTINCT FROM p_except
            AND (v_scope = 'on' OR s.tenant_id = sidle_tenant() OR u.tenant_id = sidle_tenant()
                -- A session that has gone to another tenant is still this one's while it holds tokens for it.
                OR EXISTS (SELECT FROM refresh_tokens t WHERE t.session_id = s.session_id
                    AND t.tenant_id = sidle_tenant() AND t.access_until > p_now))
        ORDER BY s.session_id
        FOR NO KEY UPDATE OF s
    LOOP
        IF session_close(v_session, p_reason, p_now) THEN
            v_ended := v_ended || v_session;
        END IF;
    END LOOP;
    -- Signed out everywhere is also out of every way in that is half gone.
    IF v_scope = 'on' OR EXISTS (SELECT FROM users u WHERE u.user_id = p_user AND u.tenant_id = sidle_tenant()) THEN
        PERFORM pending_void(p_user);
    END IF;
    PERFORM session_narrow(v_scope);
    RETURN v_ended;
END
$$;
COMMENT ON FUNCTION session_end_all(uuid, uuid, text, timestamptz) IS 'Ends the sessions of a user, except one, and voids what waits to become one; tells which sessions, and the caller records it. In a tenant''s transaction only sessions that act in that tenant or still hold tokens for it, or everything of its own users.';

-- Logins through Kanidm.

CREATE FUNCTION kanidm_login_begin(p_login jsonb, p_pkce_verifier bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    INSERT INTO kanidm_logins (login_id, state_hash, secret_hash, nonce_hash, pkce_verifier, redirect_uri, request,
        created_at, expires_at)
    VALUES ((p_login ->> 'login_id')::uuid, decode(p_login ->> 'state_hash', 'hex'),
        decode(p_login ->> 'secret_hash', 'hex'), decode(p_login ->> 'nonce_hash', 'hex'), p_pkce_verifier,
        p_login ->> 'redirect_uri', p_login -> 'request', (p_login ->> 'created_at')::timestamptz,
        (p_login ->> 'expires_at')::timestamptz);
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION kanidm_login_begin(jsonb, bytea) IS 'Remembers a login that goes to Kanidm.';

-- The secret is in the condition: whoever only saw the state cannot spend somebody else's attempt.
CREATE FUNCTION kanidm_login_take(p_state_hash bytea, p_secret_hash bytea, p_now timestamptz)
    RETURNS TABLE (login_id uuid, nonce_hash bytea, pkce_verifier bytea, redirect_uri text, request jsonb, live boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    RETURN QUERY DELETE FROM kanidm_logins l WHERE l.state_hash = p_state_hash AND l.secret_hash = p_secret_hash
        RETURNING l.login_id, l.nonce_hash, l.pkce_verifier, l.redirect_uri, l.request, l.expires_at > p_now;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION kanidm_login_take(bytea, bytea, timestamptz) IS 'Takes a begun login, which can be done once.';

CREATE FUNCTION kanidm_login_finish(p_kanidm_user uuid, p_groups uuid[], p_asked_tenant uuid, p_now timestamptz,
    p_session jsonb, p_event jsonb, p_personal bytea, p_refused jsonb, p_refused_personal bytea, p_groups_event jsonb,
    p_migrated jsonb, OUT outcome text, OUT user_id uuid, OUT tenant_id uuid, OUT choices uuid[], OUT roles text[], OUT permissions text[],
    OUT platform_permissions text[], OUT tokens_valid_from timestamptz, OUT must_change_password boolean,
    OUT email text, OUT username text, OUT full_name text, OUT auth_method text, OUT first_login boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    u users%ROWTYPE;
    v_tenant record;
    v_rights record;
    v_who jsonb;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.kanidm_user_id = p_kanidm_user AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        -- A user who was rolled back to the password keeps the link for the next attempt, but does not come in by it.
        outcome := CASE
            WHEN u.user_id IS NULL OR u.auth_method = 'password' THEN 'not_linked'
            WHEN u.status <> 'active' THEN 'refused'
        END;
        v_who := jsonb_strip_nulls(jsonb_build_object('target_kind', CASE WHEN u.user_id IS NOT NULL THEN 'user' END,
            'target_id', u.user_id, 'tenant_id', u.tenant_id));
        IF outcome IS NOT NULL THEN
            PERFORM audit_record(p_refused || v_who || jsonb_build_object('reason',
                CASE outcome WHEN 'refused' THEN 'disabled' ELSE outcome END), p_refused_personal);
            EXIT body;
        END IF;
        PERFORM session_sync_groups(u.user_id, p_groups, p_now, p_groups_event || v_who);
        SELECT * INTO v_tenant FROM session_tenant(u.user_id, u.tenant_id, p_asked_tenant);
        choices := v_tenant.choices;
        IF v_tenant.outcome <> 'found' THEN
            PERFORM audit_record(p_refused || v_who || jsonb_build_object('reason', v_tenant.outcome), p_refused_personal);
            outcome := v_tenant.outcome;
            EXIT body;
        END IF;
        first_login := u.migration_completed_at IS NULL;
        UPDATE users x SET last_login_at = p_now, kanidm_synced_at = p_now,
                migration_completed_at = coalesce(x.migration_completed_at, p_now)
            WHERE x.user_id = u.user_id
            RETURNING x.tokens_valid_from INTO tokens_valid_from;
        PERFORM session_open(u.user_id, v_tenant.tenant_id, 'kanidm', p_now, p_session);
        PERFORM audit_record(p_event || v_who || jsonb_build_object('tenant_id', v_tenant.tenant_id, 'actor_kind', 'user',
            'actor_id', u.user_id, 'origin_subject', u.user_id, 'personal_subject', u.user_id, 'session_id',
            p_session ->> 'session_id', 'details', coalesce(p_event -> 'details', '{}')
            || jsonb_build_object('first_kanidm_login', first_login)), p_personal);
        IF first_login THEN
            PERFORM audit_record(p_migrated || v_who, NULL);
        END IF;
        SELECT * INTO v_rights FROM session_rights(u.user_id, v_tenant.tenant_id);
        outcome := 'signed_in';
        user_id := u.user_id;
        tenant_id := v_tenant.tenant_id;
        roles := v_rights.roles;
        permissions := v_rights.permissions;
        platform_permissions := v_rights.platform_permissions;
        -- A seeded password that must change is no matter to somebody who came without it.
        must_change_password := false;
        email := u.email;
        username := u.username;
        full_name := u.full_name;
        auth_method := u.auth_method;
    END body;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION kanidm_login_finish(uuid, uuid[], uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb) IS 'Signs in the user that is linked to a Kanidm person, with memberships as the person''s groups say.';

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

REVOKE ALL ON FUNCTION login_begin(text, timestamptz, integer, interval), login_refuse(jsonb, bytea, jsonb),
    login_finish(uuid, text, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea),
    api_key_exchange(bytea, timestamptz, jsonb, bytea, jsonb, bytea),
    session_refresh(bytea, bytea, uuid, bytea, uuid, uuid, timestamptz, interval, interval, uuid, interval, jsonb, bytea, jsonb, bytea),
    session_kanidm_renewed(uuid, uuid, bytea, uuid[], timestamptz, jsonb), session_kanidm_released(uuid, uuid),
    session_end(uuid, text, timestamptz, jsonb, bytea), session_end_all(uuid, uuid, text, timestamptz),
    kanidm_login_begin(jsonb, bytea), kanidm_login_take(bytea, bytea, timestamptz),
    kanidm_login_finish(uuid, uuid[], uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb),
    expire_old_sessions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION login_begin(text, timestamptz, integer, interval), login_refuse(jsonb, bytea, jsonb),
    login_finish(uuid, text, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea),
    api_key_exchange(bytea, timestamptz, jsonb, bytea, jsonb, bytea),
    session_refresh(bytea, bytea, uuid, bytea, uuid, uuid, timestamptz, interval, interval, uuid, interval, jsonb, bytea, jsonb, bytea),
    session_kanidm_renewed(uuid, uuid, bytea, uuid[], timestamptz, jsonb), session_kanidm_released(uuid, uuid),
    session_end(uuid, text, timestamptz, jsonb, bytea), session_end_all(uuid, uuid, text, timestamptz),
    kanidm_login_begin(jsonb, bytea), kanidm_login_take(bytea, bytea, timestamptz),
    kanidm_login_finish(uuid, uuid[], uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb),
    expire_old_sessions() TO sidle_app;
