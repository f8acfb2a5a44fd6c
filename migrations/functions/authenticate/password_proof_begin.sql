-- Guesses by others must not keep a user who is signed in from reauthenticating: from a known device the count is the
-- device's own, as at the login.
CREATE OR REPLACE FUNCTION password_proof_begin(p_user uuid, p_now timestamptz, p_max integer, p_lock interval,
    p_device_hash bytea) RETURNS password_attempt
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    u users%ROWTYPE;
    v_highest_cost smallint;
    v_result password_attempt;
BEGIN
    SELECT max(x.password_cost) INTO v_highest_cost FROM users x;
    SELECT * INTO u FROM users x WHERE x.user_id = p_user AND x.deleted_at IS NULL FOR NO KEY UPDATE;
    v_result := password_reserve(u, p_now, p_max, p_lock, p_device_hash);
    v_result.highest_cost := v_highest_cost;
    PERFORM rls_restore(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION password_proof_begin(uuid, timestamptz, integer, interval, bytea) IS 'Reserves an attempt of a signed-in user to prove their password once more, or returns why not. From a known device the count is the device''s own.';
REVOKE ALL ON FUNCTION password_proof_begin(uuid, timestamptz, integer, interval, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION password_proof_begin(uuid, timestamptz, integer, interval, bytea) TO sidle_app;
