-- First part of a password login, before the hash is computed; it is finished or refused after it.
CREATE OR REPLACE FUNCTION login_begin(p_identifier text, p_now timestamptz, p_max integer, p_lock interval, p_device_hash bytea,
    p_network text, p_spacing interval, p_burst interval) RETURNS password_attempt
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    u users%ROWTYPE;
    v_highest_cost smallint;
    v_result password_attempt;
BEGIN
    <<body>>
    BEGIN
        -- The reservation reaches the disk with the refusal or the session, before the caller is answered.
        PERFORM set_config('synchronous_commit', 'off', true);
        SELECT max(x.password_cost) INTO v_highest_cost FROM users x;
        IF position('@' IN p_identifier) > 0 THEN
            SELECT * INTO u FROM users x WHERE x.email_key = p_identifier AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        ELSE
            SELECT * INTO u FROM users x WHERE x.username_key = p_identifier AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        END IF;
        -- After the user's row, which another transaction may hold for long: a call that waits for it must not hold the
        -- row of the address, which other clients share. The address was charged in memory before this call.
        IF p_network IS NOT NULL THEN
            v_result.retry_after := rate_limit_acquire('password', p_network, p_now, p_spacing, p_burst);
            IF v_result.retry_after IS NOT NULL THEN
                v_result.refusal := 'throttled';
                EXIT body;
            END IF;
        END IF;
        v_result.user_id := u.user_id;
        v_result.tenant_id := u.tenant_id;
        v_result.refusal := CASE
            WHEN u.locked_until > p_now AND p_device_hash IS NULL THEN 'locked'
            WHEN u.status = 'disabled' THEN 'disabled'
            WHEN u.status <> 'active' THEN 'unverified'
        END::attempt_refusal;
        IF v_result.refusal IS NULL THEN
            v_result := password_reserve(u, p_now, p_max, p_lock, p_device_hash);
        END IF;
    END body;
    v_result.highest_cost := v_highest_cost;
    PERFORM rls_restore(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION login_begin(text, timestamptz, integer, interval, bytea, text, interval, interval) IS 'Finds a user by e-mail address or username, charges the rate limit of the client''s address and reserves an attempt, or returns why not.';
REVOKE ALL ON FUNCTION login_begin(text, timestamptz, integer, interval, bytea, text, interval, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION login_begin(text, timestamptz, integer, interval, bytea, text, interval, interval) TO sidle_app;
