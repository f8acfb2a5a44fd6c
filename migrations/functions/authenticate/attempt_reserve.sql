-- An attempt at a guessable secret is reserved in its own transaction before the secret is checked; it is given back
-- (attempt_refund) when the secret was right and another factor is missing; the failures are forgotten
-- (attempt_succeeded) only when the login is complete.
CREATE OR REPLACE FUNCTION attempt_reserve(p_user uuid, p_now timestamptz, p_max integer, p_lock interval, p_longest interval,
    p_device_hash bytea, OUT refusal attempt_refusal, OUT attempt integer, OUT known_device boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    u users%ROWTYPE;
    d known_devices%ROWTYPE;
    v_lock interval;
    v_guess integer := CASE WHEN p_longest IS NULL THEN 0 ELSE 1 END;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.user_id = p_user AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        -- An expired device counts as unknown from here on, also when this attempt is finished, so that a right login
        -- does not clear the device's count when the attempt was taken from the account's.
        DELETE FROM known_devices x WHERE x.token_hash = p_device_hash AND x.user_id = p_user AND x.expires_at <= p_now;
        SELECT * INTO d FROM known_devices x WHERE x.token_hash = p_device_hash AND x.user_id = p_user FOR UPDATE;
        known_device := d.known_device_id IS NOT NULL;
        refusal := CASE
            WHEN u.user_id IS NULL THEN 'unknown'
            -- The automatic lock does not apply to known devices; an administrator's does.
            WHEN u.locked_until > p_now AND NOT (known_device AND u.lock_reason = 'too_many_failures') THEN 'locked'
            WHEN d.locked_until > p_now THEN 'locked'
            WHEN u.status = 'disabled' THEN 'disabled'
            WHEN u.status <> 'active' THEN 'unverified'
        END::attempt_refusal;
        IF refusal IS NOT NULL THEN
            EXIT body;
        END IF;
        -- A caller who guesses at a second factor has the password: each lock is twice as long as the one before.
        v_lock := CASE WHEN p_longest IS NULL THEN p_lock ELSE greatest(p_lock, least(p_longest, p_lock * power(2, least(16,
            CASE WHEN known_device THEN d.second_factor_failures ELSE u.second_factor_failures END / p_max)))) END;
        -- A lock that has expired begins a new count; the row is locked, so concurrent attempts are counted one by one.
        IF known_device THEN
            attempt := CASE WHEN d.locked_until IS NULL THEN d.failed_attempts ELSE 0 END + 1;
            UPDATE known_devices x SET failed_attempts = attempt,
                    second_factor_failures = x.second_factor_failures + v_guess,
                    locked_until = CASE WHEN attempt >= p_max THEN p_now + v_lock END,
                    lock_unrecorded_at = CASE WHEN attempt >= p_max THEN p_now ELSE x.lock_unrecorded_at END
                WHERE x.known_device_id = d.known_device_id;
        ELSE
            attempt := CASE WHEN u.locked_until IS NULL THEN u.failed_login_attempts ELSE 0 END + 1;
            UPDATE users x SET failed_login_attempts = attempt,
                    second_factor_failures = x.second_factor_failures + v_guess,
                    locked_until = CASE WHEN attempt >= p_max THEN p_now + v_lock END,
                    lock_unrecorded_at = CASE WHEN attempt >= p_max THEN p_now ELSE x.lock_unrecorded_at END,
                    lock_reason = CASE WHEN attempt >= p_max THEN 'too_many_failures' END
                WHERE x.user_id = u.user_id;
        END IF;
    END body;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION attempt_reserve(uuid, timestamptz, integer, interval, interval, bytea) IS 'Reserves an attempt at any guessable secret of a user, or returns why not; the last attempt locks until it is known to be right. From a known device the count is the device''s own. With a longest lock it is an attempt at a second factor, whose locks grow up to that.';
REVOKE ALL ON FUNCTION attempt_reserve(uuid, timestamptz, integer, interval, interval, bytea) FROM PUBLIC;
