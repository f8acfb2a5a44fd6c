-- Authentication: attempts at guessable secrets, which are counted before anything is computed, known devices, and rate
-- limits of addresses. Second factors that Sidle itself verifies, logins that wait for one, and step-up tokens. What
-- goes by mail: registrations, password resets, invitations to enrol in Kanidm.

CREATE TABLE known_devices (
    known_device_id        uuid PRIMARY KEY,
    user_id                uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    token_hash             bytea NOT NULL,
    failed_attempts        integer NOT NULL DEFAULT 0,
    second_factor_failures integer NOT NULL DEFAULT 0,
    locked_until           timestamptz,
    lock_unrecorded_at     timestamptz,
    created_at             timestamptz NOT NULL,
    last_used_at           timestamptz,
    expires_at             timestamptz NOT NULL,
    CONSTRAINT known_devices_token_hash_check CHECK (octet_length(token_hash) = 32)
);
CREATE UNIQUE INDEX known_devices_token_hash_key ON known_devices (token_hash);
CREATE INDEX idx_known_devices_user ON known_devices (user_id);
CREATE INDEX idx_known_devices_expires_at ON known_devices (expires_at);
CREATE INDEX idx_known_devices_lock_unrecorded ON known_devices (lock_unrecorded_at) WHERE lock_unrecorded_at IS NOT NULL;
COMMENT ON TABLE known_devices IS 'Devices from which a login was completed: their attempts are counted apart from all others, so that guesses from elsewhere lock no user out of their own devices.';
COMMENT ON COLUMN known_devices.known_device_id IS 'UUIDv7 of the device''s secret.';
COMMENT ON COLUMN known_devices.user_id IS 'User for whom the device is known.';
COMMENT ON COLUMN known_devices.token_hash IS 'SHA-256 of the secret that the device keeps, which has 256 random bits.';
COMMENT ON COLUMN known_devices.failed_attempts IS 'Attempts reserved from the device since its last success.';
COMMENT ON COLUMN known_devices.second_factor_failures IS 'Attempts reserved at second factors from the device since the last complete login from it.';
COMMENT ON COLUMN known_devices.locked_until IS 'Sign-in from the device is refused until then.';
COMMENT ON COLUMN known_devices.lock_unrecorded_at IS 'When an attempt led to a lock whose event is not written yet; null once it is, or the attempt turned out right.';
COMMENT ON COLUMN known_devices.created_at IS 'When the secret was handed out.';
COMMENT ON COLUMN known_devices.last_used_at IS 'When a login with it was last completed; null if none was, and then it is forgotten first.';
COMMENT ON COLUMN known_devices.expires_at IS 'When the device is forgotten unless the user signs in from it.';
ALTER TABLE known_devices ENABLE ROW LEVEL SECURITY;
ALTER TABLE known_devices FORCE ROW LEVEL SECURITY;
CREATE POLICY known_devices_scope ON known_devices USING ((SELECT sidle_platform()));
-- Attempts are counted, and devices made known, through functions only.
GRANT SELECT, UPDATE (lock_unrecorded_at), DELETE ON known_devices TO sidle_app;

-- Unlogged: a crash loses a few seconds of counting at most.
CREATE UNLOGGED TABLE address_attempts (
    lane    text NOT NULL,
    network text NOT NULL,
    free_at timestamptz NOT NULL,
    PRIMARY KEY (network, lane)
) WITH (fillfactor = 70);
CREATE INDEX idx_address_attempts_free_at ON address_attempts (free_at);
COMMENT ON TABLE address_attempts IS 'Rate limits: how much each client address has asked for lately, over all replicas.';
COMMENT ON COLUMN address_attempts.lane IS 'Which authentication methods are counted together.';
COMMENT ON COLUMN address_attempts.network IS 'The address; of IPv6 the first 64 bits.';
COMMENT ON COLUMN address_attempts.free_at IS 'When all calls so far are paid off at the permitted rate; each call adds its share.';
ALTER TABLE address_attempts ENABLE ROW LEVEL SECURITY;
ALTER TABLE address_attempts FORCE ROW LEVEL SECURITY;
CREATE POLICY address_attempts_scope ON address_attempts USING ((SELECT sidle_platform()));
-- Counted through a function only. Locking the rows that are purged needs the privilege to update a column.
GRANT SELECT, UPDATE (lane), DELETE ON address_attempts TO sidle_app;

CREATE TABLE unknown_refusals (
    network    text NOT NULL,
    event_type text NOT NULL,
    until      timestamptz NOT NULL,
    refusals   bigint NOT NULL,
    earlier    bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (network, event_type)
) WITH (fillfactor = 70);
CREATE INDEX idx_unknown_refusals_until ON unknown_refusals (until);
COMMENT ON TABLE unknown_refusals IS 'Refusals of unknown identifiers, counted for each address and recorded together: with an event for each, anonymous callers could fill the log.';
COMMENT ON COLUMN unknown_refusals.network IS 'The client''s address; of IPv6 the first 64 bits; empty where there is none.';
COMMENT ON COLUMN unknown_refusals.event_type IS 'Type of the event that stands for them.';
COMMENT ON COLUMN unknown_refusals.until IS 'End of the interval that is being counted.';
COMMENT ON COLUMN unknown_refusals.refusals IS 'Number of refusals in it, apart from the first, which was recorded immediately.';
COMMENT ON COLUMN unknown_refusals.earlier IS 'Number of refusals in the interval before, which the event of this interval''s first refusal states.';
ALTER TABLE unknown_refusals ENABLE ROW LEVEL SECURITY;
ALTER TABLE unknown_refusals FORCE ROW LEVEL SECURITY;
CREATE POLICY unknown_refusals_scope ON unknown_refusals USING ((SELECT sidle_platform()));
GRANT SELECT, UPDATE, DELETE ON unknown_refusals TO sidle_app;

-- A user has a second factor from the moment confirmed_at is set, and from then on a password alone begins no session.
CREATE TABLE user_totp (
    user_id      uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    totp_id      uuid NOT NULL,
    secret       bytea NOT NULL,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    confirmed_at timestamptz,
    last_step    bigint NOT NULL DEFAULT 0
);
CREATE INDEX idx_user_totp_lapsing ON user_totp (expires_at) WHERE confirmed_at IS NULL;
COMMENT ON TABLE user_totp IS 'Authenticator applications, one for each user at most.';
COMMENT ON COLUMN user_totp.user_id IS 'User of the application.';
COMMENT ON COLUMN user_totp.totp_id IS 'UUIDv7 of the enrolment: identifies the one that a code was computed for.';
COMMENT ON COLUMN user_totp.secret IS 'Shared secret, sealed for this user.';
COMMENT ON COLUMN user_totp.created_at IS 'When the enrolment began.';
COMMENT ON COLUMN user_totp.expires_at IS 'When it lapses unless it is confirmed.';
COMMENT ON COLUMN user_totp.confirmed_at IS 'When it was confirmed with a first code; null while it is not in effect.';
COMMENT ON COLUMN user_totp.last_step IS 'Time step of the newest accepted code: no code of that step or an earlier one is accepted again.';
ALTER TABLE user_totp ENABLE ROW LEVEL SECURITY;
ALTER TABLE user_totp FORCE ROW LEVEL SECURITY;
CREATE POLICY user_totp_scope ON user_totp USING ((SELECT sidle_platform()));
GRANT SELECT, INSERT, UPDATE, DELETE ON user_totp TO sidle_app;

CREATE TABLE recovery_codes (
    recovery_code_id uuid PRIMARY KEY,
    user_id          uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    code_hash        bytea NOT NULL,
    created_at       timestamptz NOT NULL,
    used_at          timestamptz,
    CONSTRAINT recovery_codes_code_hash_check CHECK (octet_length(code_hash) = 32)
);
CREATE UNIQUE INDEX recovery_codes_code_hash_key ON recovery_codes (user_id, code_hash);
COMMENT ON TABLE recovery_codes IS 'One-time codes that replace a lost authenticator application.';
COMMENT ON COLUMN recovery_codes.recovery_code_id IS 'UUIDv7 of the code.';
COMMENT ON COLUMN recovery_codes.user_id IS 'User of the code.';
COMMENT ON COLUMN recovery_codes.code_hash IS 'Keyed digest of the code.';
COMMENT ON COLUMN recovery_codes.created_at IS 'When it was handed out.';
COMMENT ON COLUMN recovery_codes.used_at IS 'When it was used.';
ALTER TABLE recovery_codes ENABLE ROW LEVEL SECURITY;
ALTER TABLE recovery_codes FORCE ROW LEVEL SECURITY;
CREATE POLICY recovery_codes_scope ON recovery_codes USING ((SELECT sidle_platform()));
GRANT SELECT, INSERT, UPDATE, DELETE ON recovery_codes TO sidle_app;

CREATE TABLE mfa_challenges (
    challenge_id      uuid PRIMARY KEY,
    challenge_hash    bytea NOT NULL,
    user_id           uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    password_version  bigint NOT NULL,
    known_device_hash bytea,
    request           jsonb NOT NULL,
    created_at        timestamptz NOT NULL,
    expires_at        timestamptz NOT NULL,
    CONSTRAINT mfa_challenges_challenge_hash_check CHECK (octet_length(challenge_hash) = 32)
);
CREATE UNIQUE INDEX mfa_challenges_challenge_hash_key ON mfa_challenges (challenge_hash);
CREATE INDEX idx_mfa_challenges_user ON mfa_challenges (user_id);
CREATE INDEX idx_mfa_challenges_expires_at ON mfa_challenges (expires_at);
COMMENT ON TABLE mfa_challenges IS 'Logins with the right password that wait for the second factor.';
COMMENT ON COLUMN mfa_challenges.challenge_id IS 'UUIDv7 of the challenge.';
COMMENT ON COLUMN mfa_challenges.challenge_hash IS 'SHA-256 of the token that the client completes the login with.';
COMMENT ON COLUMN mfa_challenges.user_id IS 'User who is signing in.';
COMMENT ON COLUMN mfa_challenges.password_version IS 'Version of the password that was right: when the password has changed since, the challenge is void.';
COMMENT ON COLUMN mfa_challenges.known_device_hash IS 'Digest of the known device that the password came from, if any: guesses at the second factor are counted per device.';
COMMENT ON COLUMN mfa_challenges.request IS 'What was asked for: tenant, audience, device, persistent. Read by the service only.';
COMMENT ON COLUMN mfa_challenges.created_at IS 'When the password was verified.';
COMMENT ON COLUMN mfa_challenges.expires_at IS 'When it stops being accepted.';
ALTER TABLE mfa_challenges ENABLE ROW LEVEL SECURITY;
ALTER TABLE mfa_challenges FORCE ROW LEVEL SECURITY;
CREATE POLICY mfa_challenges_scope ON mfa_challenges USING ((SELECT sidle_platform()));
GRANT SELECT, INSERT, UPDATE, DELETE ON mfa_challenges TO sidle_app;

CREATE TABLE step_up_tokens (
    step_up_token_id uuid PRIMARY KEY,
    token_hash       bytea NOT NULL,
    user_id          uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    session_id       uuid NOT NULL REFERENCES sessions ON DELETE CASCADE,
    method           text NOT NULL,
    target           text NOT NULL,
    change           bytea NOT NULL,
    factor           text NOT NULL,
    created_at       timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL,
    CONSTRAINT step_up_tokens_token_hash_check CHECK (octet_length(token_hash) = 32),
    CONSTRAINT step_up_tokens_change_check CHECK (octet_length(change) = 32),
    CONSTRAINT step_up_tokens_factor_check CHECK (factor IN ('password', 'totp', 'recovery_code', 'kanidm'))
);
CREATE UNIQUE INDEX step_up_tokens_token_hash_key ON step_up_tokens (token_hash);
CREATE INDEX idx_step_up_tokens_user ON step_up_tokens (user_id);
CREATE INDEX idx_step_up_tokens_session ON step_up_tokens (session_id);
CREATE INDEX idx_step_up_tokens_expires_at ON step_up_tokens (expires_at);
COMMENT ON TABLE step_up_tokens IS 'Step-up tokens, each for one call; a row is deleted when its token is used.';
COMMENT ON COLUMN step_up_tokens.step_up_token_id IS 'UUIDv7 of the step-up token.';
COMMENT ON COLUMN step_up_tokens.token_hash IS 'SHA-256 of the token, which has 256 random bits.';
COMMENT ON COLUMN step_up_tokens.user_id IS 'User who proved a factor.';
COMMENT ON COLUMN step_up_tokens.session_id IS 'Session of that user: no other can use it.';
COMMENT ON COLUMN step_up_tokens.method IS 'Full name of the RPC that it is for.';
COMMENT ON COLUMN step_up_tokens.target IS 'Id of what the call acts on; empty for the caller''s own account.';
COMMENT ON COLUMN step_up_tokens.change IS 'Keyed digest of the request that it is for, and of the tenant that the caller acts in.';
COMMENT ON COLUMN step_up_tokens.factor IS 'Factor that was proved: password, totp, recovery_code or kanidm.';
COMMENT ON COLUMN step_up_tokens.created_at IS 'When it was proved.';
COMMENT ON COLUMN step_up_tokens.expires_at IS 'When it stops being accepted.';
ALTER TABLE step_up_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE step_up_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY step_up_tokens_scope ON step_up_tokens USING ((SELECT sidle_platform()));
GRANT SELECT, INSERT, UPDATE, DELETE ON step_up_tokens TO sidle_app;

-- A request of an anonymous caller is stored first, at the same cost for every caller and every address; a worker
-- decides afterwards whether a message is to be sent.
CREATE TABLE registrations (
    registration_id    uuid PRIMARY KEY,
    request_id         uuid NOT NULL,
    request_hash       bytea NOT NULL,
    tenant_id          uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    state              text NOT NULL DEFAULT 'asked',
    email              text,
    email_key          text,
    username           text,
    username_key       text,
    full_name          text,
    password_hash      text,
    password_cost      smallint,
    password_pepper_id smallint,
    secret_hash        bytea NOT NULL,
    token_hash         bytea,
    user_id            uuid REFERENCES users ON DELETE CASCADE,
    verified_at        timestamptz,
    password_kept      boolean NOT NULL DEFAULT false,
    created_at         timestamptz NOT NULL,
    expires_at         timestamptz NOT NULL,
    CONSTRAINT registrations_state_check CHECK (state IN ('asked', 'sent', 'dropped', 'superseded', 'verified')),
    CONSTRAINT registrations_personal_check CHECK ((state IN ('asked', 'sent')) = (email_key IS NOT NULL)
        AND (state IN ('asked', 'sent') OR (email IS NULL AND username IS NULL AND full_name IS NULL
            AND password_hash IS NULL))),
    CONSTRAINT registrations_username_key_check CHECK ((username IS NULL) = (username_key IS NULL)),
    CONSTRAINT registrations_verified_check CHECK ((state = 'verified') = (user_id IS NOT NULL)),
    CONSTRAINT registrations_hashes_check CHECK (octet_length(secret_hash) = 32 AND octet_length(token_hash) = 32)
);
CREATE UNIQUE INDEX registrations_request_key ON registrations (request_id);
CREATE UNIQUE INDEX registrations_token_hash_key ON registrations (token_hash) WHERE token_hash IS NOT NULL;
CREATE INDEX idx_registrations_asked ON registrations (created_at) WHERE state = 'asked';
CREATE INDEX idx_registrations_email_key ON registrations (email_key) WHERE email_key IS NOT NULL;
CREATE INDEX idx_registrations_expires_at ON registrations (expires_at);
CREATE INDEX idx_registrations_user ON registrations (user_id) WHERE user_id IS NOT NULL;
COMMENT ON TABLE registrations IS 'Requested accounts. There is no user before the address is verified: a request alone reserves neither an address nor a name.';
COMMENT ON COLUMN registrations.registration_id IS 'UUIDv7 of the registration.';
COMMENT ON COLUMN registrations.request_id IS 'The id that the caller chose; a repeat changes nothing.';
COMMENT ON COLUMN registrations.request_hash IS 'Keyed digest of the request; another request under the same id is refused.';
COMMENT ON COLUMN registrations.tenant_id IS 'Tenant to register in.';
COMMENT ON COLUMN registrations.state IS 'asked (nothing sent yet), sent, dropped (the address has an account, or had enough messages), superseded (by a newer one) or verified.';
COMMENT ON COLUMN registrations.email IS 'Address as given; null once the registration is finished.';
COMMENT ON COLUMN registrations.email_key IS 'Key of the address; null once the registration is finished.';
COMMENT ON COLUMN registrations.username IS 'Name to sign in with; null once the registration is finished.';
COMMENT ON COLUMN registrations.username_key IS 'Key of that name; null once the registration is finished.';
COMMENT ON COLUMN registrations.full_name IS 'Display name; null once the registration is finished.';
COMMENT ON COLUMN registrations.password_hash IS 'Hash of the password that was given; null once the registration is finished.';
COMMENT ON COLUMN registrations.password_cost IS 'Cost of that hash.';
COMMENT ON COLUMN registrations.password_pepper_id IS 'Pepper of that hash; null for none.';
COMMENT ON COLUMN registrations.secret_hash IS 'SHA-256 of the secret that the client got: the password is kept only for a client that presents it.';
COMMENT ON COLUMN registrations.token_hash IS 'SHA-256 of the token in the message; null while none was sent.';
COMMENT ON COLUMN registrations.user_id IS 'The user it became.';
COMMENT ON COLUMN registrations.verified_at IS 'When it became a user.';
COMMENT ON COLUMN registrations.password_kept IS 'Whether the user has the password that was given.';
COMMENT ON COLUMN registrations.created_at IS 'When it was asked for.';
COMMENT ON COLUMN registrations.expires_at IS 'When its token stops being accepted; the row is purged afterwards.';
ALTER TABLE registrations ENABLE ROW LEVEL SECURITY;
ALTER TABLE registrations FORCE ROW LEVEL SECURITY;
CREATE POLICY registrations_scope ON registrations USING ((SELECT sidle_platform()));
-- What was asked for does not change until the row is purged.
GRANT SELECT, INSERT, DELETE, UPDATE (state, email, email_key, username, username_key, full_name, password_hash,
    password_cost, password_pepper_id, token_hash, user_id, verified_at, password_kept) ON registrations TO sidle_app;

CREATE TABLE password_reset_requests (
    request_id     uuid PRIMARY KEY,
    identifier_key text NOT NULL,
    correlation_id uuid NOT NULL,
    event          jsonb NOT NULL,
    personal       bytea,
    created_at     timestamptz NOT NULL
);
CREATE UNIQUE INDEX password_reset_requests_identifier_key ON password_reset_requests (identifier_key);
-- Requests are processed oldest first, however many there are.
CREATE INDEX idx_password_reset_requests_created_at ON password_reset_requests (created_at);
COMMENT ON TABLE password_reset_requests IS 'Addresses and usernames for which a password reset was requested, until a worker looks up their user.';
COMMENT ON COLUMN password_reset_requests.request_id IS 'UUIDv7 of the request.';
COMMENT ON COLUMN password_reset_requests.identifier_key IS 'The address or username in lower case.';
COMMENT ON COLUMN password_reset_requests.correlation_id IS 'Correlation id of the call.';
COMMENT ON COLUMN password_reset_requests.event IS 'The event of the request, which is recorded only if the identifier belongs to a user, so that requests for unknown ones do not fill the log.';
COMMENT ON COLUMN password_reset_requests.personal IS 'Its personal data, sealed.';
COMMENT ON COLUMN password_reset_requests.created_at IS 'When it was requested.';
ALTER TABLE password_reset_requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE password_reset_requests FORCE ROW LEVEL SECURITY;
CREATE POLICY password_reset_requests_scope ON password_reset_requests USING ((SELECT sidle_platform()));
-- Locking the row that is taken needs the privilege to update a column.
GRANT SELECT, INSERT, UPDATE (request_id), DELETE ON password_reset_requests TO sidle_app;

CREATE TABLE one_time_tokens (
    token_id   uuid PRIMARY KEY,
    purpose    text NOT NULL,
    token_hash bytea NOT NULL,
    user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    email_key  text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    CONSTRAINT one_time_tokens_purpose_check CHECK (purpose IN ('verify_email', 'password_reset')),
    CONSTRAINT one_time_tokens_token_hash_check CHECK (octet_length(token_hash) = 32)
);
CREATE UNIQUE INDEX one_time_tokens_token_hash_key ON one_time_tokens (token_hash);
CREATE INDEX idx_one_time_tokens_user ON one_time_tokens (user_id, purpose);
CREATE INDEX idx_one_time_tokens_expires_at ON one_time_tokens (expires_at);
COMMENT ON TABLE one_time_tokens IS 'Tokens that were sent to users by mail.';
COMMENT ON COLUMN one_time_tokens.token_id IS 'UUIDv7 of the token.';
COMMENT ON COLUMN one_time_tokens.purpose IS 'What it is for: verify_email or password_reset.';
COMMENT ON COLUMN one_time_tokens.token_hash IS 'SHA-256 of the token, which has 256 random bits.';
COMMENT ON COLUMN one_time_tokens.user_id IS 'User who got it.';
COMMENT ON COLUMN one_time_tokens.email_key IS 'Key of the address it was sent to; void once the user has another address.';
COMMENT ON COLUMN one_time_tokens.created_at IS 'When it was made; void once the password is changed after that.';
COMMENT ON COLUMN one_time_tokens.expires_at IS 'When it stops being accepted.';
COMMENT ON COLUMN one_time_tokens.used_at IS 'When it was used or voided; the row is kept until it expires, so that repeating the call is harmless.';
ALTER TABLE one_time_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE one_time_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY one_time_tokens_scope ON one_time_tokens USING ((SELECT sidle_platform()));
GRANT SELECT, INSERT, UPDATE (used_at), DELETE ON one_time_tokens TO sidle_app;

-- Invitations use the service's clock, as other tokens do.
CREATE TABLE invitations (
    user_id       uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    invitation_id uuid NOT NULL,
    token_hash    bytea NOT NULL,
    route         text NOT NULL,
    created_at    timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL,
    CONSTRAINT invitations_route_check CHECK (route IN ('login', 'mail')),
    CONSTRAINT invitations_token_hash_check CHECK (octet_length(token_hash) = 32)
);
CREATE UNIQUE INDEX invitations_token_hash_key ON invitations (token_hash);
CREATE INDEX idx_invitations_expires_at ON invitations (expires_at);
COMMENT ON TABLE invitations IS 'Invitations to enrol in Kanidm that can be redeemed; a user has one at most, and a newer one replaces it.';
COMMENT ON COLUMN invitations.user_id IS 'The invited user.';
COMMENT ON COLUMN invitations.invitation_id IS 'UUIDv7 of the invitation.';
COMMENT ON COLUMN invitations.token_hash IS 'SHA-256 of the token, which has 256 random bits.';
COMMENT ON COLUMN invitations.route IS 'How the token reached the user: login (in the answer to a login) or mail.';
COMMENT ON COLUMN invitations.created_at IS 'When it was issued.';
COMMENT ON COLUMN invitations.expires_at IS 'When it stops being accepted.';
ALTER TABLE invitations ENABLE ROW LEVEL SECURITY;
ALTER TABLE invitations FORCE ROW LEVEL SECURITY;
CREATE POLICY invitations_scope ON invitations USING ((SELECT sidle_platform()));
-- Created and voided through functions only; the service purges lapsed ones, for which it locks them, and a row can be
-- locked only by a role that may update one of its columns.
GRANT SELECT, DELETE, UPDATE (expires_at) ON invitations TO sidle_app;

-- Parameter and result types of the login functions.
CREATE TYPE new_device AS (
    known_device_id uuid,
    token_hash      bytea,
    expires_at      timestamptz,
    most            integer
);
COMMENT ON TYPE new_device IS 'A device that becomes known, and the limit of known devices of one user.';
CREATE TYPE new_challenge AS (
    challenge_id      uuid,
    challenge_hash    bytea,
    known_device_hash bytea,
    request           jsonb,
    expires_at        timestamptz
);
COMMENT ON TYPE new_challenge IS 'A login that waits for its second factor, with the known device that it comes from and what it asked for.';
CREATE TYPE attempt_refusal AS ENUM ('throttled', 'unknown', 'locked', 'disabled', 'unverified', 'kanidm_only', 'no_password',
    'no_second_factor', 'unknown_challenge', 'challenge_lapsed', 'challenge_spent', 'changed_meanwhile', 'wrong_code',
    'replayed');
COMMENT ON TYPE attempt_refusal IS 'Why an attempt at a guessable secret is not made or does not count: the client''s address asked too often; the user, the password, the second factor or the challenge is not there or not as it must be; the code is wrong, or was used before.';
CREATE TYPE password_attempt AS (
    user_id            uuid,
    tenant_id          uuid,
    refusal            attempt_refusal,
    retry_after        interval,
    attempt            integer,
    known_device       boolean,
    password_hash      text,
    password_version   bigint,
    password_pepper_id smallint,
    set_here           boolean,
    highest_cost       smallint
);
COMMENT ON TYPE password_attempt IS 'An attempt at a password that was reserved, with the hash to compare with, or why it was not; when to come back with throttled. And the highest cost of any user''s hash.';
CREATE TYPE factor_attempt AS (
    user_id      uuid,
    tenant_id    uuid,
    refusal      attempt_refusal,
    attempt      integer,
    known_device boolean,
    totp_id      uuid,
    secret       bytea,
    request      jsonb
);
COMMENT ON TYPE factor_attempt IS 'An attempt at a second factor that was reserved, with the application''s secret, sealed, or why it was not; and what the login asked for that waits for it.';
CREATE TYPE login_account AS (
    user_id     uuid,
    email       text,
    username    text,
    full_name   text,
    auth_method text
);
COMMENT ON TYPE login_account IS 'The user who has signed in, as the answer shows them.';
CREATE TYPE login_outcome AS ENUM ('signed_in', 'mfa_required', 'tenant_required', 'no_tenant', 'refused');
COMMENT ON TYPE login_outcome IS 'Outcome of a login after the user was authenticated.';
CREATE TYPE login_result AS (
    outcome        login_outcome,
    account        login_account,
    rights         user_rights,
    choices        uuid[],
    known_device   boolean,
    recovery_codes boolean,
    refusal        attempt_refusal
);
COMMENT ON TYPE login_result IS 'Result of a login: account and rights with signed_in, the tenants to choose from with tenant_required, whether there are recovery codes left with mfa_required; a refusal where the caller is to record it.';
CREATE TYPE key_outcome AS ENUM ('accepted', 'unknown', 'revoked', 'expired', 'disabled', 'tenant_disabled');
COMMENT ON TYPE key_outcome IS 'Outcome of an exchange of an API key or a client secret.';
CREATE TYPE invitation_route AS ENUM ('login', 'mail');
COMMENT ON TYPE invitation_route IS 'How an invitation reaches a user: in the answer to a login, or by mail.';
