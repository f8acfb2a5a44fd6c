-- The service reads the secret and computes the code; whether it is accepted, once, is decided here.
CREATE OR REPLACE FUNCTION factor_consume(p_user uuid, p_totp uuid, p_step bigint, p_code_hashes bytea[], p_now timestamptz)
    RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
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
COMMENT ON FUNCTION factor_consume(uuid, uuid, bigint, bytea[], timestamptz) IS 'Accepts a code''s time step, or a recovery code, once. For functions that have entered the platform scope, and for the platform.';
REVOKE ALL ON FUNCTION factor_consume(uuid, uuid, bigint, bytea[], timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION factor_consume(uuid, uuid, bigint, bytea[], timestamptz) TO sidle_app;
