-- Guesses by others must not keep a user who is signed in from reauthenticating: from a known device the count is the
-- device's own, as at the login.
CREATE OR REPLACE FUNCTION factor_begin(p_user uuid, p_pending boolean, p_now timestamptz, p_max integer, p_lock interval,
    p_longest interval, p_device_hash bytea) RETURNS factor_attempt
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    t user_totp%ROWTYPE;
    v_result factor_attempt;
BEGIN
    <<body>>
    BEGIN
        v_result.user_id := p_user;
        SELECT u.tenant_id INTO v_result.tenant_id FROM users u
            WHERE u.user_id = p_user AND u.deleted_at IS NULL FOR NO KEY UPDATE;
        SELECT * INTO t FROM user_totp x WHERE x.user_id = p_user
            AND CASE WHEN p_pending THEN x.confirmed_at IS NULL AND x.expires_at > p_now ELSE x.confirmed_at IS NOT NULL END;
        IF t.user_id IS NULL THEN
            v_result.refusal := 'no_second_factor';
            EXIT body;
        END IF;
        SELECT r.attempt, r.known_device, r.refusal INTO v_result.attempt, v_result.known_device, v_result.refusal
            FROM attempt_reserve(p_user, p_now, p_max, p_lock, p_longest, p_device_hash) r;
        IF v_result.refusal IS NULL THEN
            v_result.totp_id := t.totp_id;
            v_result.secret := t.secret;
        END IF;
    END body;
    PERFORM rls_restore(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION factor_begin(uuid, boolean, timestamptz, integer, interval, interval, bytea) IS 'Reserves an attempt of a signed-in user to prove a code, of the enrolled application or of the one that is being enrolled, or returns why not. From a known device the count is the device''s own.';
REVOKE ALL ON FUNCTION factor_begin(uuid, boolean, timestamptz, integer, interval, interval, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION factor_begin(uuid, boolean, timestamptz, integer, interval, interval, bytea) TO sidle_app;
