CREATE OR REPLACE FUNCTION attempt_succeeded(p_user uuid, p_device_hash bytea, p_now timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    UPDATE known_devices x SET failed_attempts = 0, second_factor_failures = 0, locked_until = NULL, lock_unrecorded_at = NULL
        WHERE x.token_hash = p_device_hash AND x.user_id = p_user AND x.expires_at > p_now;
    -- A success from a known device gives guesses from elsewhere no new attempts.
    IF NOT FOUND THEN
        UPDATE users x SET failed_login_attempts = 0, second_factor_failures = 0, locked_until = NULL, lock_reason = NULL,
                lock_unrecorded_at = NULL
            WHERE x.user_id = p_user;
    END IF;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION attempt_succeeded(uuid, bytea, timestamptz) IS 'Forgets the failures, of the known device or of the account, once a login is complete.';
REVOKE ALL ON FUNCTION attempt_succeeded(uuid, bytea, timestamptz) FROM PUBLIC;
