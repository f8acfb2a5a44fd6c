-- What a login and a proof have in common, once the user is found and their row is locked.
CREATE OR REPLACE FUNCTION password_reserve(u users, p_now timestamptz, p_max integer, p_lock interval, p_device_hash bytea)
    RETURNS password_attempt
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_result password_attempt;
BEGIN
    v_result.user_id := u.user_id;
    v_result.tenant_id := u.tenant_id;
    v_result.refusal := CASE
        WHEN u.user_id IS NULL THEN 'unknown'
        WHEN u.auth_method = 'kanidm' THEN 'kanidm_only'
        WHEN u.password_hash IS NULL THEN 'no_password'
    END::attempt_refusal;
    IF v_result.refusal IS NOT NULL THEN
        RETURN v_result;
    END IF;
    SELECT r.attempt, r.known_device, r.refusal INTO v_result.attempt, v_result.known_device, v_result.refusal
        FROM attempt_reserve(u.user_id, p_now, p_max, p_lock, NULL, p_device_hash) r;
    IF v_result.refusal IS NULL THEN
        v_result.password_hash := u.password_hash;
        v_result.password_version := u.password_version;
        v_result.password_pepper_id := u.password_pepper_id;
        v_result.set_here := u.password_changed_at IS NOT NULL;
    END IF;
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION password_reserve(users, timestamptz, integer, interval, bytea) IS 'Reserves an attempt at the password of a user whose row is locked, or says why not. For functions that have entered the platform scope.';
REVOKE ALL ON FUNCTION password_reserve(users, timestamptz, integer, interval, bytea) FROM PUBLIC;
