-- First part of a password login, before the hash is computed; it is finished or refused after it.
CREATE OR REPLACE FUNCTION login_begin(p_identifier text, p_now timestamptz, p_max integer, p_lock interval, p_device_hash bytea,
    p_network text, p_spacing interval, p_burst interval,
    OUT user_id uuid, OUT tenant_id uuid, OUT password_hash text, OUT password_version bigint,
    OUT password_pepper_id smallint, OUT set_here boolean, OUT attempt integer, OUT known_device boolean, OUT refusal text,
    OUT highest_cost smallint, OUT wait interval)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    u users%ROWTYPE;
    v_reserved record;
BEGIN
    <<body>>
    BEGIN
        -- The reservation reaches the disk with the refusal or the session, before the caller is answered.
        PERFORM set_config('synchronous_commit', 'off', true);
        SELECT max(x.password_cost) INTO highest_cost FROM users x;
        IF position('@' IN p_identifier) > 0 THEN
            SELECT * INTO u FROM users x WHERE x.email_key = p_identifier AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        ELSE
            SELECT * INTO u FROM users x WHERE x.username_key = p_identifier AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        END IF;
        -- After the user's row, which another transaction may hold for long: a call that waits for it must not hold the
        -- row of the address, which other clients share. The address was charged in memory before this call.
        IF p_network IS NOT NULL THEN
            wait := rate_limit_acquire('password', p_network, p_now, p_spacing, p_burst);
            IF wait IS NOT NULL THEN
                refusal := 'throttled';
                EXIT body;
            END IF;
        END IF;
        user_id := u.user_id;
        tenant_id := u.tenant_id;
        refusal := CASE
            WHEN u.user_id IS NULL THEN 'unknown'
            WHEN u.locked_until > p_now AND p_device_hash IS NULL THEN 'locked'
            WHEN u.status = 'disabled' THEN 'disabled'
            WHEN u.status <> 'active' THEN 'unverified'
            WHEN u.auth_method = 'kanidm' THEN 'kanidm_only'
            WHEN u.password_hash IS NULL THEN 'no_password'
        END;
        IF refusal IS NOT NULL THEN
            EXIT body;
        END IF;
        SELECT * INTO v_reserved FROM attempt_reserve(u.user_id, p_now, p_max, p_lock, NULL, p_device_hash);
        known_device := v_reserved.known_device;
        attempt := v_reserved.attempt;
        refusal := v_reserved.refusal;
        IF refusal IS NOT NULL THEN
            EXIT body;
        END IF;
        password_hash := u.password_hash;
        password_version := u.password_version;
        password_pepper_id := u.password_pepper_id;
        set_here := u.password_changed_at IS NOT NULL;
    END body;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION login_begin(text, timestamptz, integer, interval, bytea, text, interval, interval) IS 'Finds a user by e-mail address or username, charges the rate limit of the client''s address and reserves an attempt, or returns why not.';
REVOKE ALL ON FUNCTION login_begin(text, timestamptz, integer, interval, bytea, text, interval, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION login_begin(text, timestamptz, integer, interval, bytea, text, interval, interval) TO sidle_app;
