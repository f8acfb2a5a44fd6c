CREATE OR REPLACE FUNCTION attempt_refund(p_user uuid, p_device_hash bytea, p_now timestamptz, p_second_factor boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_guess integer := CASE WHEN p_second_factor THEN 1 ELSE 0 END;
BEGIN
    -- As at the reservation: an expired device is not known, and the attempt was counted for the account.
    UPDATE known_devices x SET failed_attempts = greatest(x.failed_attempts - 1, 0), locked_until = NULL,
            lock_unrecorded_at = NULL,
            second_factor_failures = greatest(x.second_factor_failures - v_guess, 0)
        WHERE x.token_hash = p_device_hash AND x.user_id = p_user AND x.expires_at > p_now;
    IF NOT FOUND THEN
        UPDATE users x SET failed_login_attempts = greatest(x.failed_login_attempts - 1, 0),
                second_factor_failures = greatest(x.second_factor_failures - v_guess, 0),
                locked_until = CASE WHEN x.lock_reason = 'administrator' THEN x.locked_until END,
                lock_unrecorded_at = NULL,
                lock_reason = CASE WHEN x.lock_reason = 'administrator' THEN x.lock_reason END
            WHERE x.user_id = p_user;
    END IF;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION attempt_refund(uuid, bytea, timestamptz, boolean) IS 'Gives one reserved attempt back, with the lock it may have led to: the secret was right, but earlier failures stay counted.';
REVOKE ALL ON FUNCTION attempt_refund(uuid, bytea, timestamptz, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION attempt_refund(uuid, bytea, timestamptz, boolean) TO sidle_app;
