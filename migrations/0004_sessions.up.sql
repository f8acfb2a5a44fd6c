-- Signing keys, sessions and refresh tokens.
--
-- A transaction that locks a user and sessions of the user locks the user first, so that two of them queue instead of
-- deadlocking.

CREATE TABLE signing_keys (
    kid           uuid PRIMARY KEY,
    algorithm     text NOT NULL,
    private_key   bytea NOT NULL,
    state         text NOT NULL,
    created_at    timestamptz NOT NULL,
    activates_at  timestamptz NOT NULL,
    activated_at  timestamptz,
    retiring_at   timestamptz,
    expires_at    timestamptz,
    retired_at    timestamptz,
    retire_reason text,
    CONSTRAINT signing_keys_algorithm_check CHECK (algorithm IN ('EdDSA', 'ES256', 'RS256')),
    CONSTRAINT signing_keys_state_check CHECK (state IN ('pending', 'active', 'retiring', 'retired')),
    -- A pending key that is superseded or revoked never signs.
    CONSTRAINT signing_keys_times_check CHECK ((state IN ('pending', 'retired') OR activated_at IS NOT NULL)
        AND (state <> 'retired' OR retired_at IS NOT NULL)),
    CONSTRAINT signing_keys_expires_check CHECK ((expires_at IS NOT NULL) = (state IN ('retiring', 'retired'))),
    CONSTRAINT signing_keys_retire_reason_check CHECK (retire_reason IN ('expired', 'revoked', 'superseded')),
    CONSTRAINT signing_keys_private_key_check CHECK ((octet_length(private_key) = 0) = (state = 'retired'))
);
-- This index makes replicas that start concurrently agree on the first key.
CREATE UNIQUE INDEX signing_keys_active_key ON signing_keys (state) WHERE state = 'active';
-- A rotation in progress is replaced by a later one, never joined by it.
CREATE UNIQUE INDEX signing_keys_pending_key ON signing_keys (state) WHERE state = 'pending';
-- Replicas read the recently revoked keys by it when they start.
CREATE INDEX idx_signing_keys_retired_at ON signing_keys (retired_at) WHERE retired_at IS NOT NULL;
COMMENT ON TABLE signing_keys IS 'Keys that sign access tokens.';
COMMENT ON COLUMN signing_keys.kid IS 'Identifier of the key in token headers and in the published key set.';
COMMENT ON COLUMN signing_keys.algorithm IS 'The one algorithm the key is used with: EdDSA (Ed25519), ES256 or RS256.';
COMMENT ON COLUMN signing_keys.private_key IS 'PKCS#8 private key, sealed; the public key is derived from it, never stored. Empty once the key is retired.';
COMMENT ON COLUMN signing_keys.state IS 'pending (published, not yet used), active (signs), retiring (only verifies) or retired.';
COMMENT ON COLUMN signing_keys.created_at IS 'When the key was made.';
COMMENT ON COLUMN signing_keys.activates_at IS 'When it is to begin to sign.';
COMMENT ON COLUMN signing_keys.activated_at IS 'When it began to sign.';
COMMENT ON COLUMN signing_keys.retiring_at IS 'When it stopped signing.';
COMMENT ON COLUMN signing_keys.expires_at IS 'When the last token that it signed expires: from then on it is not accepted any more.';
COMMENT ON COLUMN signing_keys.retired_at IS 'When it stopped verifying.';
COMMENT ON COLUMN signing_keys.retire_reason IS 'expired (its time was over), revoked (by an administrator) or superseded (by another key before it signed).';
ALTER TABLE signing_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE signing_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY signing_keys_scope ON signing_keys USING ((SELECT sidle_platform()));
GRANT SELECT, INSERT, UPDATE ON signing_keys TO sidle_app;

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
    -- The lease of a background check is separate from the one that a refresh takes, because a refresh of a session
    -- that both password and Kanidm authenticated does not ask Kanidm and clears its own.
    kanidm_checked_at    timestamptz NOT NULL DEFAULT now(),
    kanidm_check_id      uuid,
    kanidm_check_until   timestamptz,
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
    refresh_free_at      timestamptz,
    revoked_at           timestamptz,
    revoke_reason        text,
    CONSTRAINT sessions_auth_method_check CHECK (auth_method IN ('jwt', 'kanidm', 'dual')),
    CONSTRAINT sessions_status_check CHECK (status IN ('active', 'revoked', 'expired')),
    CONSTRAINT sessions_revoked_check CHECK ((status = 'revoked') = (revoked_at IS NOT NULL)),
    CONSTRAINT sessions_revoke_reason_check CHECK (revoke_reason IN ('logout', 'user',
        'administrator', 'token_reuse', 'kanidm', 'credential_changed', 'user_disabled', 'rollback', 'session_limit')),
    CONSTRAINT sessions_device_type_check CHECK (device_type IN ('desktop', 'phone', 'tablet', 'service', 'other'))
) WITH (fillfactor = 85);
-- No indexed column changes when a session is refreshed, so that the update is a heap-only one.
CREATE INDEX idx_sessions_user ON sessions (user_id, session_id);
CREATE INDEX idx_sessions_tenant ON sessions (tenant_id, session_id);
CREATE INDEX idx_sessions_kanidm_session ON sessions (kanidm_session_id) WHERE kanidm_session_id IS NOT NULL;
CREATE INDEX idx_sessions_revoked_at ON sessions (revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX idx_sessions_expires_at ON sessions (expires_at) WHERE status = 'active';
-- Changes only when Kanidm was asked: refreshes of other sessions are still heap-only updates.
CREATE INDEX idx_sessions_kanidm_checked_at ON sessions (kanidm_checked_at)
    WHERE status = 'active' AND kanidm_refresh_token IS NOT NULL;
-- Used by the purge. Neither column changes when a session is refreshed.
CREATE INDEX idx_sessions_expired ON sessions (expires_at) WHERE status = 'expired';
COMMENT ON TABLE sessions IS 'Sessions of users, from login until they end.';
COMMENT ON COLUMN sessions.session_id IS 'UUIDv7 of the session; sid of its access tokens.';
COMMENT ON COLUMN sessions.user_id IS 'User of the session.';
COMMENT ON COLUMN sessions.tenant_id IS 'Tenant that it acts in now; null for platform administrators without one.';
COMMENT ON COLUMN sessions.auth_method IS 'How the user was authenticated: jwt (password), kanidm (OIDC) or dual (both in this session).';
COMMENT ON COLUMN sessions.status IS 'active, revoked or expired. A session may lapse before it is marked expired: see expires_at and idle_expires_at.';
COMMENT ON COLUMN sessions.audience IS 'Audience of all of its access tokens.';
COMMENT ON COLUMN sessions.persistent IS 'Whether the user asked to stay signed in.';
COMMENT ON COLUMN sessions.access_token_jti IS 'jti of the newest access token.';
COMMENT ON COLUMN sessions.access_token_hash IS 'SHA-256 of the access token; null, since access tokens are verified by signature. Sessions brought from elsewhere may have one.';
COMMENT ON COLUMN sessions.refresh_token_jti IS 'Id of the refresh token that is valid now.';
COMMENT ON COLUMN sessions.refresh_token_hash IS 'SHA-256 of the refresh token that is valid now.';
COMMENT ON COLUMN sessions.kanidm_session_id IS 'Kanidm''s own session that this one was authenticated with.';
COMMENT ON COLUMN sessions.kanidm_refresh_token IS 'Kanidm''s refresh token, sealed; null for sessions that Kanidm did not authenticate.';
COMMENT ON COLUMN sessions.kanidm_lease_id IS 'Holder of the lease to renew the session at Kanidm, one at a time since Kanidm''s refresh tokens rotate.';
COMMENT ON COLUMN sessions.kanidm_lease_until IS 'When the lease lapses.';
COMMENT ON COLUMN sessions.kanidm_renewed IS 'Whether the holder of the lease has renewed it.';
COMMENT ON COLUMN sessions.kanidm_checked_at IS 'When Kanidm last confirmed the session, by the database''s clock.';
COMMENT ON COLUMN sessions.kanidm_check_id IS 'Holder of the lease to check the session at Kanidm in the background.';
COMMENT ON COLUMN sessions.kanidm_check_until IS 'When that lease lapses.';
COMMENT ON COLUMN sessions.device_id IS 'Identifier of the device, chosen by the application.';
COMMENT ON COLUMN sessions.device_type IS 'desktop, phone, tablet, service or other.';
COMMENT ON COLUMN sessions.device_platform IS 'Operating system or platform.';
COMMENT ON COLUMN sessions.device_location IS 'Location of the device, as reported by the application.';
COMMENT ON COLUMN sessions.device_fingerprint IS 'Digest that recognises the device; for display, never trusted.';
COMMENT ON COLUMN sessions.ip_address IS 'Address of the client that signed in.';
COMMENT ON COLUMN sessions.user_agent IS 'User agent of the client that signed in.';
COMMENT ON COLUMN sessions.created_at IS 'When it began.';
COMMENT ON COLUMN sessions.last_activity_at IS 'When its tokens were renewed last.';
COMMENT ON COLUMN sessions.idle_expires_at IS 'Idle timeout: when it ends unless its tokens are renewed; the expiry of its refresh token.';
COMMENT ON COLUMN sessions.expires_at IS 'When it ends at the latest.';
COMMENT ON COLUMN sessions.refresh_free_at IS 'Rate limit of refreshes: when all exchanges of its refresh tokens so far are paid off, at the spacing of throttle.session_refresh_per_minute.';
COMMENT ON COLUMN sessions.revoked_at IS 'When it was revoked.';
COMMENT ON COLUMN sessions.revoke_reason IS 'Why it was revoked.';
ALTER TABLE sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY sessions_scope ON sessions
    USING ((SELECT sidle_platform()) OR tenant_id = (SELECT sidle_tenant()));
-- Sessions change through functions only.
GRANT SELECT ON sessions TO sidle_app;

CREATE TABLE refresh_tokens (
    refresh_token_id uuid PRIMARY KEY,
    token_family     uuid NOT NULL,
    session_id       uuid NOT NULL REFERENCES sessions ON DELETE CASCADE,
    token_hash       bytea NOT NULL,
    -- No foreign key: every refresh would lock the tenant's row for it.
    tenant_id        uuid,
    access_until     timestamptz,
    created_at       timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL,
    used_at          timestamptz,
    successor_id     uuid,
    request_hash     bytea,
    repeated_at      timestamptz,
    revoked_at       timestamptz,
    CONSTRAINT refresh_tokens_token_hash_check CHECK (octet_length(token_hash) = 32),
    CONSTRAINT refresh_tokens_used_check CHECK (
        (used_at IS NULL) = (successor_id IS NULL) AND (used_at IS NULL) = (request_hash IS NULL))
);
CREATE UNIQUE INDEX refresh_tokens_token_hash_key ON refresh_tokens (token_hash);
-- A family has at most one live branch: the database enforces the rotation.
CREATE UNIQUE INDEX refresh_tokens_live_key ON refresh_tokens (token_family) WHERE used_at IS NULL AND revoked_at IS NULL;
CREATE INDEX idx_refresh_tokens_session ON refresh_tokens (session_id);
CREATE INDEX idx_refresh_tokens_expires_at ON refresh_tokens (expires_at);
COMMENT ON TABLE refresh_tokens IS 'Refresh tokens, including used ones: a second use indicates theft.';
COMMENT ON COLUMN refresh_tokens.refresh_token_id IS 'UUIDv7 of the token.';
COMMENT ON COLUMN refresh_tokens.token_family IS 'The chain of tokens that replaced one another since the login.';
COMMENT ON COLUMN refresh_tokens.session_id IS 'Session of the token.';
COMMENT ON COLUMN refresh_tokens.token_hash IS 'SHA-256 of the token, which has 256 random bits.';
COMMENT ON COLUMN refresh_tokens.tenant_id IS 'Tenant of the access tokens that were issued with it; null for none.';
COMMENT ON COLUMN refresh_tokens.access_until IS 'When the last of those access tokens expires: until then that tenant can end the session as well.';
COMMENT ON COLUMN refresh_tokens.created_at IS 'When it was issued.';
COMMENT ON COLUMN refresh_tokens.expires_at IS 'When it stops being accepted.';
COMMENT ON COLUMN refresh_tokens.used_at IS 'When it was exchanged for its successor.';
COMMENT ON COLUMN refresh_tokens.successor_id IS 'The token it was exchanged for.';
COMMENT ON COLUMN refresh_tokens.request_hash IS 'SHA-256 of the request_id of the exchange: only the same call can repeat it.';
COMMENT ON COLUMN refresh_tokens.repeated_at IS 'When an exchange that raced the first one was last recorded.';
COMMENT ON COLUMN refresh_tokens.revoked_at IS 'When it was revoked, unused.';
ALTER TABLE refresh_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE refresh_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY refresh_tokens_scope ON refresh_tokens USING ((SELECT sidle_platform()));

-- Parameter and result types of the session functions.
CREATE TYPE new_session AS (
    session_id           uuid,
    audience             text,
    persistent           boolean,
    access_token_jti     uuid,
    access_until         timestamptz,
    refresh_token_id     uuid,
    refresh_token_hash   bytea,
    device_id            text,
    device_type          text,
    device_platform      text,
    device_location      text,
    device_fingerprint   text,
    ip_address           text,
    user_agent           text,
    kanidm_session_id    uuid,
    kanidm_refresh_token bytea,
    idle_expires_at      timestamptz,
    expires_at           timestamptz,
    session_limit        integer,
    limit_event          prepared_event
);
COMMENT ON TYPE new_session IS 'A session to begin, with its first refresh token; the limit of sessions of one user, 0 for none, and the event that records those that end because of it.';
CREATE TYPE tenant_outcome AS ENUM ('found', 'tenant_required', 'no_tenant');
COMMENT ON TYPE tenant_outcome IS 'Whether there is a tenant for a login to act in: tenant_required when the caller has to choose.';
CREATE TYPE user_rights AS (
    tenant_id            uuid,
    roles                text[],
    permissions          text[],
    platform_permissions text[],
    tokens_valid_from    timestamptz,
    must_change_password boolean
);
COMMENT ON TYPE user_rights IS 'What a user is and may do in a tenant and on the platform, as a token states it.';
CREATE TYPE refresh_exchange AS (
    token_hash       bytea,
    request_hash     bytea,
    successor_id     uuid,
    successor_hash   bytea,
    access_token_jti uuid,
    access_until     timestamptz,
    tenant_id        uuid,
    audience         text,
    exchanged_at     timestamptz,
    repeat_within    interval,
    leeway           interval,
    idle             interval,
    persistent_idle  interval,
    lease_id         uuid,
    lease_time       interval,
    spacing          interval,
    burst            interval
);
COMMENT ON TYPE refresh_exchange IS 'An exchange of a refresh token for its successor: what is asked for; for how long it can be repeated and raced; the session''s idle timeout afterwards; the lease to renew it at Kanidm; and the rate limit''s charge, where there is one.';
CREATE TYPE refresh_outcome AS ENUM ('refreshed', 'repeated', 'raced', 'reused', 'invalid', 'no_tenant', 'other_audience',
    'request_id_reused', 'throttled', 'kanidm_busy', 'kanidm_required');
COMMENT ON TYPE refresh_outcome IS 'Outcome of an exchange of a refresh token.';
CREATE TYPE refresh_result AS (
    outcome              refresh_outcome,
    session_id           uuid,
    user_id              uuid,
    audience             text,
    rights               user_rights,
    expires_at           timestamptz,
    refresh_expires_at   timestamptz,
    kanidm_user_id       uuid,
    kanidm_refresh_token bytea,
    retry_after          interval
);
COMMENT ON TYPE refresh_result IS 'Result of an exchange: what the new tokens are made of; or what to ask Kanidm about, with which token (sealed); or when to retry.';
