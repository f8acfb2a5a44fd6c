-- No tenant sees the rows, so a tenant's administrators use this function, which reveals nothing else.
CREATE OR REPLACE FUNCTION directory_has_second_factor(p_user uuid) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_found boolean;
BEGIN
    SELECT EXISTS (SELECT FROM user_totp t WHERE t.user_id = p_user AND t.confirmed_at IS NOT NULL) INTO v_found;
    PERFORM rls_restore(v_scope);
    RETURN v_found;
END
$$;
COMMENT ON FUNCTION directory_has_second_factor(uuid) IS 'Whether a user has an authenticator application.';
REVOKE ALL ON FUNCTION directory_has_second_factor(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION directory_has_second_factor(uuid) TO sidle_app;
