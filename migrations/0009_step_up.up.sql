-- Proofs for sensitive calls: whoever shows a factor once more gets a token for one call, which the call spends.

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
COMMENT ON TABLE step_up_tokens IS 'Proofs that wait for the one call that they were made for; a row goes when it is spent.';
COMMENT ON COLUMN step_up_tokens.step_up_token_id IS 'UUIDv7 of the proof.';
COMMENT ON COLUMN step_up_tokens.token_hash IS 'SHA-256 of the token, which has 256 random bits.';
COMMENT ON COLUMN step_up_tokens.user_id IS 'Who showed a factor.';
COMMENT ON COLUMN step_up_tokens.session_id IS 'In which session: no other can spend it.';
COMMENT ON COLUMN step_up_tokens.method IS 'Full name of the RPC that it is for.';
COMMENT ON COLUMN step_up_tokens.target IS 'Id of what the call acts on; empty for one''s own account.';
COMMENT ON COLUMN step_up_tokens.change IS 'Keyed digest of the request that it is for, and of the tenant that the caller acts in.';
COMMENT ON COLUMN step_up_tokens.factor IS 'What was shown: password, totp, recovery_code or kanidm.';
COMMENT ON COLUMN step_up_tokens.created_at IS 'When it was shown.';
COMMENT ON COLUMN step_up_tokens.expires_at IS 'When it stops being accepted.';

ALTER TABLE step_up_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE step_up_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY step_up_tokens_scope ON step_up_tokens USING ((SELECT sidle_platform()));
GRANT SELECT, INSERT, UPDATE, DELETE ON step_up_tokens TO sidle_app;

CREATE INDEX idx_user_totp_lapsing ON user_totp (expires_at) WHERE confirmed_at IS NULL;

-- What waits to become a way in was begun under what the user was then. It is voided in one place, which is called by
-- signing out everywhere and by whatever changes credentials, address, status or an administrator's lock, in either
-- direction: what is begun while a user is shut out is worth nothing either. Invitations have rules of their own (0013).
CREATE FUNCTION pending_void(p_user uuid) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public
    AS $$
BEGIN
    -- Lapsed and not gone: whoever answers it is refused on record.
    UPDATE mfa_challenges c SET expires_at = c.created_at WHERE c.user_id = p_user AND c.expires_at > c.created_at;
    UPDATE one_time_tokens t SET used_at = clock_timestamp()
        WHERE t.user_id = p_user AND t.purpose = 'password_reset' AND t.used_at IS NULL;
    DELETE FROM step_up_tokens t WHERE t.user_id = p_user;
    -- An enrolment that the old password began is not the new password's.
    DELETE FROM user_totp t WHERE t.user_id = p_user AND t.confirmed_at IS NULL;
    DELETE FROM kanidm_logins l WHERE l.user_id = p_user;
END
$$;
COMMENT ON FUNCTION pending_void(uuid) IS 'Voids what a user has under way: logins that wait for a second factor, links to a new password, proofs, unfinished enrolments, and what went to Kanidm to prove or to link. For functions that have widened the scope.';

CREATE FUNCTION pending_void_of_user() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    PERFORM pending_void(NEW.user_id);
    PERFORM session_narrow(v_scope);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION pending_void_of_user() IS 'Trigger: voids what a user has under way.';
-- The automatic lock is not among the causes: whoever guesses could void the way back of the person they lock out.
CREATE TRIGGER users_pending_void
    AFTER UPDATE OF password_changed_at, password_hash, email_key, kanidm_user_id, auth_method, status, locked_until,
        lock_reason, deleted_at ON users FOR EACH ROW
    WHEN (OLD.password_changed_at IS DISTINCT FROM NEW.password_changed_at
        OR (OLD.password_hash IS NULL) <> (NEW.password_hash IS NULL)
        OR OLD.email_key <> NEW.email_key OR OLD.kanidm_user_id IS DISTINCT FROM NEW.kanidm_user_id
        OR (OLD.auth_method <> NEW.auth_method AND NEW.auth_method = 'password')
        OR OLD.status <> NEW.status OR NEW.status <> 'active'
        OR (OLD.deleted_at IS NULL) <> (NEW.deleted_at IS NULL)
        OR (OLD.lock_reason IS NOT DISTINCT FROM 'administrator') <> (NEW.lock_reason IS NOT DISTINCT FROM 'administrator')
        OR (NEW.lock_reason = 'administrator' AND OLD.locked_until IS DISTINCT FROM NEW.locked_until))
    EXECUTE FUNCTION pending_void_of_user();

-- The one place that takes factors away; whoever calls it records it and tells the user.
CREATE FUNCTION factors_remove(p_user uuid) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_there boolean := EXISTS (SELECT FROM user_totp t WHERE t.user_id = p_user AND t.confirmed_at IS NOT NULL);
BEGIN
    DELETE FROM recovery_codes r WHERE r.user_id = p_user;
    DELETE FROM user_totp t WHERE t.user_id = p_user;
    DELETE FROM mfa_challenges c WHERE c.user_id = p_user;
    PERFORM pending_void(p_user);
    RETURN v_there;
END
$$;
COMMENT ON FUNCTION factors_remove(uuid) IS 'Takes a user''s authenticator application and recovery codes away, with everything that is worth something through them only; tells whether there was one. For functions that have widened the scope.';

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
    p_change bytea, p_now timestamptz, OUT factor text, OUT ways text[])
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
            AND t.target = p_target AND t.change = p_change AND t.expires_at > p_now
            AND EXISTS (SELECT FROM sessions s
                WHERE s.session_id = t.session_id AND s.status = 'active' AND s.expires_at > p_now)
        RETURNING t.factor INTO factor;
    IF factor IS NULL THEN
        ways := step_up_ways(p_user);
    END IF;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION step_up_take(bytea, uuid, uuid, text, text, bytea, timestamptz) IS 'Spends the proof for a sensitive call, in the transaction of the call; without one tells how the user can get it.';

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

-- Completing a login with a second factor: begin before the code is computed, finish after it.

CREATE FUNCTION mfa_begin(p_challenge_hash bytea, p_now timestamptz, p_max integer, p_lock interval, p_longest interval,
    OUT user_id uuid, OUT tenant_id uuid, OUT attempt integer, OUT known_device boolean, OUT refusal text,
    OUT totp_id uuid, OUT secret bytea, OUT request jsonb)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    c mfa_challenges%ROWTYPE;
    u users%ROWTYPE;
    t user_totp%ROWTYPE;
    v_reserved record;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO c FROM mfa_challenges x WHERE x.challenge_hash = p_challenge_hash;
        IF c.challenge_id IS NULL THEN
            refusal := 'unknown_challenge';
            EXIT body;
        END IF;
        SELECT * INTO u FROM users x WHERE x.user_id = c.user_id AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        SELECT * INTO t FROM user_totp x WHERE x.user_id = u.user_id AND x.confirmed_at IS NOT NULL;
        user_id := c.user_id;
        tenant_id := u.tenant_id;
        refusal := CASE
            WHEN c.expires_at <= p_now THEN 'challenge_lapsed'
            WHEN u.user_id IS NULL THEN 'unknown'
            WHEN u.auth_method = 'kanidm' THEN 'kanidm_only'
            WHEN u.password_hash IS NULL OR u.password_version <> c.password_version THEN 'changed_meanwhile'
            WHEN t.user_id IS NULL THEN 'no_second_factor'
        END;
        IF refusal IS NOT NULL THEN
            EXIT body;
        END IF;
        SELECT * INTO v_reserved
            FROM attempt_reserve(u.user_id, p_now, p_max, p_lock, p_longest, decode(c.request ->> 'known_device', 'hex'));
        attempt := v_reserved.attempt;
        known_device := v_reserved.known_device;
        refusal := v_reserved.refusal;
        IF refusal IS NULL THEN
            totp_id := t.totp_id;
            secret := t.secret;
            request := c.request;
        END IF;
    END body;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION mfa_begin(bytea, timestamptz, integer, interval, interval) IS 'Reserves an attempt to complete a login with a code, counted with those at the password, or says why not.';

CREATE FUNCTION second_factor_refuse(p_user uuid, p_event jsonb, p_personal bytea, p_lock_event jsonb, p_mail jsonb,
    p_now timestamptz, p_tell_again interval) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    PERFORM audit_record(p_event, p_personal);
    IF p_lock_event IS NOT NULL THEN
        PERFORM audit_record(p_lock_event, NULL);
        -- Once, and not again before the user has signed in: whoever guesses must not be able to fill a mailbox.
        UPDATE users u SET second_factor_told_at = p_now
            WHERE u.user_id = p_user AND u.deleted_at IS NULL AND u.verified_at IS NOT NULL AND p_mail IS NOT NULL
                AND (u.second_factor_told_at IS NULL OR (u.last_login_at > u.second_factor_told_at
                    AND u.second_factor_told_at + p_tell_again <= p_now));
        IF FOUND THEN
            PERFORM mail_enqueue(p_mail);
        END IF;
    END IF;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION second_factor_refuse(uuid, jsonb, bytea, jsonb, jsonb, timestamptz, interval) IS 'Records a wrong second factor, and the lock that it led to; with a lock the user is told, at their verified address, unless they were told lately.';

CREATE FUNCTION mfa_finish(p_challenge_hash bytea, p_totp uuid, p_step bigint, p_code_hashes bytea[],
    p_asked_tenant uuid, p_now timestamptz, p_session jsonb, p_event jsonb, p_personal bytea, p_refused jsonb,
    p_refused_personal bytea, p_new_device jsonb, p_code_event jsonb, p_code_personal bytea, p_mail jsonb,
    OUT outcome text, OUT tenant_id uuid, OUT choices uuid[], OUT roles text[], OUT permissions text[],
    OUT platform_permissions text[], OUT tokens_valid_from timestamptz, OUT must_change_password boolean,
    OUT email text, OUT username text, OUT full_name text, OUT auth_method text, OUT known_device boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_user uuid;
    c mfa_challenges%ROWTYPE;
    u users%ROWTYPE;
    v_refusal text;
    v_done record;
BEGIN
    <<body>>
    BEGIN
        SELECT x.user_id INTO v_user FROM mfa_challenges x WHERE x.challenge_hash = p_challenge_hash;
        SELECT * INTO u FROM users x WHERE x.user_id = v_user FOR NO KEY UPDATE;
        -- Read after the user is locked: of two that complete the same login the second finds nothing.
        SELECT * INTO c FROM mfa_challenges x WHERE x.challenge_hash = p_challenge_hash;
        v_refusal := CASE
            WHEN c.challenge_id IS NULL THEN 'challenge_spent'
            WHEN c.expires_at <= p_now THEN 'challenge_lapsed'
            WHEN u.password_hash IS NULL OR u.password_version <> c.password_version THEN 'changed_meanwhile'
            WHEN NOT factor_spend(u.user_id, p_totp, p_step, p_code_hashes, p_now)
                THEN CASE WHEN p_step IS NULL THEN 'wrong_code' ELSE 'replayed' END
        END;
        IF v_refusal IS NOT NULL THEN
            -- The service records it, since it may have led to a lock.
            outcome := v_refusal;
            EXIT body;
        END IF;
        DELETE FROM mfa_challenges x WHERE x.challenge_id = c.challenge_id;
        IF p_step IS NULL THEN
            PERFORM audit_record(p_code_event || jsonb_build_object('tenant_id', u.tenant_id, 'details',
                jsonb_build_object('left', (SELECT count(*) FROM recovery_codes r
                    WHERE r.user_id = u.user_id AND r.used_at IS NULL))), p_code_personal);
            PERFORM mail_enqueue(p_mail);
        END IF;
        SELECT * INTO v_done FROM login_complete(u.user_id, p_asked_tenant, p_now, p_session, p_event, p_personal,
            p_refused, p_refused_personal, decode(c.request ->> 'known_device', 'hex'), p_new_device);
        outcome := v_done.outcome;
        tenant_id := v_done.tenant_id;
        choices := v_done.choices;
        roles := v_done.roles;
        permissions := v_done.permissions;
        platform_permissions := v_done.platform_permissions;
        tokens_valid_from := v_done.tokens_valid_from;
        must_change_password := v_done.must_change_password;
        email := v_done.email;
        username := v_done.username;
        full_name := v_done.full_name;
        auth_method := v_done.auth_method;
        known_device := v_done.known_device;
    END body;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION mfa_finish(bytea, uuid, bigint, bytea[], uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb, bytea, jsonb) IS 'After the right code: spends it and the challenge, and completes the login; a code that was used before is refused like a wrong one.';

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

REVOKE ALL ON FUNCTION pending_void(uuid), pending_void_of_user(), factors_remove(uuid), step_up_ways(uuid), factor_spend(uuid, uuid, bigint, bytea[], timestamptz),
    mfa_begin(bytea, timestamptz, integer, interval, interval),
    second_factor_refuse(uuid, jsonb, bytea, jsonb, jsonb, timestamptz, interval),
    mfa_finish(bytea, uuid, bigint, bytea[], uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb, bytea, jsonb),
    step_up_take(bytea, uuid, uuid, text, text, bytea, timestamptz), factors_tidy(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION step_up_ways(uuid), factor_spend(uuid, uuid, bigint, bytea[], timestamptz),
    mfa_begin(bytea, timestamptz, integer, interval, interval),
    second_factor_refuse(uuid, jsonb, bytea, jsonb, jsonb, timestamptz, interval),
    mfa_finish(bytea, uuid, bigint, bytea[], uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb, bytea, jsonb),
    step_up_take(bytea, uuid, uuid, text, text, bytea, timestamptz), factors_tidy(timestamptz) TO sidle_app;
