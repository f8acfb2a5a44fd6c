-- Proofs for sensitive calls: whoever shows a factor once more gets a token for one call, which the call spends.

CREATE TABLE step_up_tokens (
    step_up_token_id uuid PRIMARY KEY,
    token_hash       bytea NOT NULL,
    user_id          uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    session_id       uuid NOT NULL REFERENCES sessions ON DELETE CASCADE,
    method           text NOT NULL,
    target           text NOT NULL,
    factor           text NOT NULL,
    created_at       timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL,
    CONSTRAINT step_up_tokens_token_hash_check CHECK (octet_length(token_hash) = 32),
    CONSTRAINT step_up_tokens_factor_check CHECK (factor IN ('password', 'totp', 'recovery_code', 'kanidm'))
);
CREATE UNIQUE INDEX step_up_tokens_token_hash_key ON step_up_tokens (token_hash);
CREATE INDEX idx_step_up_tokens_user ON step_up_tokens (user_id);
CREATE INDEX idx_step_up_tokens_session ON step_up_tokens (session_id);
CREATE INDEX idx_step_up_tokens_expires_at ON step_up_tokens (expires_at);
COMMENT ON TABLE step_up_tokens IS 'Proofs that wait for the one call that they were made for; a row goes when it is spent.';
COMMENT ON COLUMN step_up_tokens.step_up_token_id IS 'UUIDv7 of the proof.';
COMMENT ON COLUMN step_up_tokens.token_hash IS 'SHA-256 of the token, which has 256 random bits.';
COMMENT ON COLUMN step_up_tokens.user_id IS 'Who showed a factor.';
COMMENT ON COLUMN step_up_tokens.session_id IS 'In which session: no other can spend it.';
COMMENT ON COLUMN step_up_tokens.method IS 'Full name of the RPC that it is for.';
COMMENT ON COLUMN step_up_tokens.target IS 'Id of what the call acts on; empty for one''s own account.';
COMMENT ON COLUMN step_up_tokens.factor IS 'What was shown: password, totp, recovery_code or kanidm.';
COMMENT ON COLUMN step_up_tokens.created_at IS 'When it was shown.';
COMMENT ON COLUMN step_up_tokens.expires_at IS 'When it stops being accepted.';

ALTER TABLE step_up_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE step_up_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY step_up_tokens_scope ON step_up_tokens USING ((SELECT sidle_platform()));
GRANT SELECT, INSERT, UPDATE, DELETE ON step_up_tokens TO sidle_app;

CREATE INDEX idx_user_totp_lapsing ON user_totp (expires_at) WHERE confirmed_at IS NULL;

-- A proof by a factor that has changed since proves nothing, and an enrolment that the old password began is not the
-- new password's.
CREATE FUNCTION step_up_forget() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    DELETE FROM step_up_tokens t WHERE t.user_id = NEW.user_id;
    DELETE FROM user_totp t WHERE t.user_id = NEW.user_id AND t.confirmed_at IS NULL;
    PERFORM session_narrow(v_scope);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION step_up_forget() IS 'Trigger: voids the proofs and the unfinished enrolment of a user whose credentials change.';
CREATE TRIGGER users_step_up_forget
    AFTER UPDATE OF password_changed_at, password_hash, email_key, kanidm_user_id, status, deleted_at ON users FOR EACH ROW
    WHEN (OLD.password_changed_at IS DISTINCT FROM NEW.password_changed_at
        OR (OLD.password_hash IS NULL) <> (NEW.password_hash IS NULL)
        OR OLD.email_key <> NEW.email_key OR OLD.kanidm_user_id IS DISTINCT FROM NEW.kanidm_user_id
        OR NEW.status <> 'active' OR NEW.deleted_at IS NOT NULL)
    EXECUTE FUNCTION step_up_forget();

-- The rule of the house: a second factor, once there is one, is what a change has to be proved by, since whoever could
-- take it away with the password alone would not need it. A login through Kanidm is a way in of its own and proves as much.
CREATE FUNCTION step_up_ways(p_user uuid) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, public
    AS $$
    SELECT CASE
            WHEN EXISTS (SELECT FROM user_totp t WHERE t.user_id = u.user_id AND t.confirmed_at IS NOT NULL)
                THEN CASE WHEN EXISTS (SELECT FROM recovery_codes r WHERE r.user_id = u.user_id AND r.used_at IS NULL)
                    THEN ARRAY['totp', 'recovery_code'] ELSE ARRAY['totp'] END
            WHEN u.password_hash IS NOT NULL AND u.auth_method <> 'kanidm' THEN ARRAY['password']
            ELSE '{}'::text[]
        END || CASE WHEN u.kanidm_user_id IS NOT NULL AND u.auth_method <> 'password'
            THEN ARRAY['kanidm'] ELSE '{}'::text[] END
    FROM users u WHERE u.user_id = p_user AND u.deleted_at IS NULL
$$;
COMMENT ON FUNCTION step_up_ways(uuid) IS 'How a user can prove who they are once more. For functions that have widened the scope, and for the platform.';

CREATE FUNCTION step_up_take(p_token_hash bytea, p_user uuid, p_session uuid, p_method text, p_target text,
    p_now timestamptz, OUT factor text, OUT ways text[])
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    -- Everything the proof is bound to is in the condition: with the wrong call it is not spent either. Of two calls at
    -- once the second waits for the first, and finds nothing once that is committed.
    DELETE FROM step_up_tokens t
        WHERE t.token_hash = p_token_hash AND t.user_id = p_user AND t.session_id = p_session AND t.method = p_method
            AND t.target = p_target AND t.expires_at > p_now
            AND EXISTS (SELECT FROM sessions s
                WHERE s.session_id = t.session_id AND s.status = 'active' AND s.expires_at > p_now)
        RETURNING t.factor INTO factor;
    IF factor IS NULL THEN
        ways := step_up_ways(p_user);
    END IF;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION step_up_take(bytea, uuid, uuid, text, text, timestamptz) IS 'Spends the proof for a sensitive call, in the transaction of the call; without one tells how the user can get it.';

-- Second factors. The service reads the secret and computes; here is decided whether that counts, once.
CREATE FUNCTION factor_spend(p_user uuid, p_totp uuid, p_step bigint, p_code_hashes bytea[], p_now timestamptz)
    RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public
    AS $$
BEGIN
    IF p_step IS NOT NULL THEN
        UPDATE user_totp t SET last_step = p_step
            WHERE t.user_id = p_user AND t.totp_id = p_totp AND t.confirmed_at IS NOT NULL AND t.last_step < p_step;
    ELSE
        UPDATE recovery_codes r SET used_at = p_now
            WHERE r.user_id = p_user AND r.code_hash = ANY (p_code_hashes) AND r.used_at IS NULL;
    END IF;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION factor_spend(uuid, uuid, bigint, bytea[], timestamptz) IS 'Accepts a code''s time step, or a recovery code, once. For functions that have widened the scope, and for the platform.';

CREATE FUNCTION factors_tidy(p_now timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    DELETE FROM step_up_tokens WHERE step_up_token_id IN (
        SELECT t.step_up_token_id FROM step_up_tokens t WHERE t.expires_at <= p_now LIMIT 10000 FOR UPDATE SKIP LOCKED);
    DELETE FROM mfa_challenges WHERE challenge_id IN (
        SELECT c.challenge_id FROM mfa_challenges c WHERE c.expires_at <= p_now LIMIT 10000 FOR UPDATE SKIP LOCKED);
    DELETE FROM user_totp WHERE user_id IN (
        SELECT t.user_id FROM user_totp t WHERE t.confirmed_at IS NULL AND t.expires_at <= p_now
        LIMIT 10000 FOR UPDATE SKIP LOCKED);
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION factors_tidy(timestamptz) IS 'Removes what has lapsed of proofs, unfinished logins and unfinished enrolments, at most 10,000 of each.';

REVOKE ALL ON FUNCTION step_up_forget(), step_up_ways(uuid), factor_spend(uuid, uuid, bigint, bytea[], timestamptz),
    step_up_take(bytea, uuid, uuid, text, text, timestamptz), factors_tidy(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION step_up_ways(uuid), factor_spend(uuid, uuid, bigint, bytea[], timestamptz),
    step_up_take(bytea, uuid, uuid, text, text, timestamptz), factors_tidy(timestamptz) TO sidle_app;
