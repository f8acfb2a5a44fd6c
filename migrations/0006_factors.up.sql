-- Second factors that Sidle itself checks, and the logins that wait for one. A user has a second factor from the moment
-- `user_totp.confirmed_at` is set, and from then on no password alone begins a session.

CREATE TABLE user_totp (
    user_id      uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    totp_id      uuid NOT NULL,
    secret       bytea NOT NULL,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    confirmed_at timestamptz,
    last_step    bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE user_totp IS 'Authenticator applications, one for each user at most.';
COMMENT ON COLUMN user_totp.user_id IS 'Whose it is.';
COMMENT ON COLUMN user_totp.totp_id IS 'UUIDv7 of the enrolment; the secret is bound to it.';
COMMENT ON COLUMN user_totp.secret IS 'Shared secret, sealed.';
COMMENT ON COLUMN user_totp.created_at IS 'When the enrolment began.';
COMMENT ON COLUMN user_totp.expires_at IS 'When it lapses unless it is confirmed.';
COMMENT ON COLUMN user_totp.confirmed_at IS 'When it was confirmed with a first code; null while it counts for nothing.';
COMMENT ON COLUMN user_totp.last_step IS 'Time step of the newest code that was accepted: none up to it is accepted again.';

CREATE TABLE recovery_codes (
    recovery_code_id uuid PRIMARY KEY,
    user_id          uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    code_hash        bytea NOT NULL,
    created_at       timestamptz NOT NULL,
    used_at          timestamptz,
    CONSTRAINT recovery_codes_code_hash_check CHECK (octet_length(code_hash) = 32)
);
CREATE UNIQUE INDEX recovery_codes_code_hash_key ON recovery_codes (user_id, code_hash);
COMMENT ON TABLE recovery_codes IS 'Codes that stand in for a lost authenticator application, each once.';
COMMENT ON COLUMN recovery_codes.recovery_code_id IS 'UUIDv7 of the code.';
COMMENT ON COLUMN recovery_codes.user_id IS 'Whose it is.';
COMMENT ON COLUMN recovery_codes.code_hash IS 'Keyed digest of the code.';
COMMENT ON COLUMN recovery_codes.created_at IS 'When it was handed out.';
COMMENT ON COLUMN recovery_codes.used_at IS 'When it was spent.';

CREATE TABLE mfa_challenges (
    challenge_id   uuid PRIMARY KEY,
    challenge_hash bytea NOT NULL,
    user_id        uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    password_version bigint NOT NULL,
    request        jsonb NOT NULL,
    created_at     timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,
    CONSTRAINT mfa_challenges_challenge_hash_check CHECK (octet_length(challenge_hash) = 32)
);
CREATE UNIQUE INDEX mfa_challenges_challenge_hash_key ON mfa_challenges (challenge_hash);
CREATE INDEX idx_mfa_challenges_user ON mfa_challenges (user_id);
CREATE INDEX idx_mfa_challenges_expires_at ON mfa_challenges (expires_at);
COMMENT ON TABLE mfa_challenges IS 'Logins whose password was right and whose second factor is missing.';
COMMENT ON COLUMN mfa_challenges.challenge_id IS 'UUIDv7 of the challenge.';
COMMENT ON COLUMN mfa_challenges.challenge_hash IS 'SHA-256 of the token that the client completes the login with.';
COMMENT ON COLUMN mfa_challenges.user_id IS 'Whose login it is.';
COMMENT ON COLUMN mfa_challenges.password_version IS 'Version of the password that was right: another password by now voids the challenge.';
COMMENT ON COLUMN mfa_challenges.request IS 'What was asked for: tenant, audience, device, persistent.';
COMMENT ON COLUMN mfa_challenges.created_at IS 'When the password was shown.';
COMMENT ON COLUMN mfa_challenges.expires_at IS 'When it stops being accepted.';

ALTER TABLE user_totp ENABLE ROW LEVEL SECURITY;
ALTER TABLE user_totp FORCE ROW LEVEL SECURITY;
CREATE POLICY user_totp_scope ON user_totp USING ((SELECT sidle_platform()));
ALTER TABLE recovery_codes ENABLE ROW LEVEL SECURITY;
ALTER TABLE recovery_codes FORCE ROW LEVEL SECURITY;
CREATE POLICY recovery_codes_scope ON recovery_codes USING ((SELECT sidle_platform()));
ALTER TABLE mfa_challenges ENABLE ROW LEVEL SECURITY;
ALTER TABLE mfa_challenges FORCE ROW LEVEL SECURITY;
CREATE POLICY mfa_challenges_scope ON mfa_challenges USING ((SELECT sidle_platform()));
GRANT SELECT, INSERT, UPDATE, DELETE ON user_totp, recovery_codes, mfa_challenges TO sidle_app;
