-- Guesses by others must not keep a user who is signed in from reauthenticating: from a known device the count is the
-- device's own, as at the login.
CREATE OR REPLACE FUNCTION password_proof_begin(p_user uuid, p_now timestamptz, p_max integer, p_lock interval,
    p_device_hash bytea,
    OUT tenant_id uuid, OUT password_hash text, OUT password_version bigint, OUT password_pepper_id smallint,
    OUT set_here boolean,
    OUT attempt integer, OUT known_device boolean, OUT refusal text, OUT highest_cost smallint)
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
        SELECT max(x.password_cost) INTO highest_cost FROM users x;
        SELECT * INTO u FROM users x WHERE x.user_id = p_user AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        tenant_id := u.tenant_id;
        refusal := CASE
            WHEN u.user_id IS NULL THEN 'unknown'
            WHEN u.auth_method = 'kanidm' THEN 'kanidm_only'
            WHEN u.password_hash IS NULL THEN 'no_password'
        END;
        IF refusal IS NOT NULL THEN
            EXIT body;
        END IF;
        SELECT * INTO v_reserved FROM attempt_reserve(p_user, p_now, p_max, p_lock, NULL, p_device_hash);
        attempt := v_reserved.attempt;
        known_device := v_reserved.known_device;
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
COMMENT ON FUNCTION password_proof_begin(uuid, timestamptz, integer, interval, bytea) IS 'Reserves an attempt of a signed-in user to prove their password once more, or returns why not. From a known device the count is the device''s own.';
REVOKE ALL ON FUNCTION password_proof_begin(uuid, timestamptz, integer, interval, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION password_proof_begin(uuid, timestamptz, integer, interval, bytea) TO sidle_app;
