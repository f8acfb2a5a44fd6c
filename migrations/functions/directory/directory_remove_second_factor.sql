-- No tenant sees the rows, so that its administrators go through this function, which knows nothing else.
CREATE OR REPLACE FUNCTION directory_remove_second_factor(p_user uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    -- As the caller's row-level security has it for the user's row, whatever the caller says that it has checked.
    IF v_scope <> 'on' AND NOT EXISTS (
            SELECT FROM users u WHERE u.user_id = p_user AND u.tenant_id = sidle_tenant()) THEN
        RAISE insufficient_privilege USING MESSAGE = 'the user is at home in another tenant';
    END IF;
    PERFORM factors_remove(p_user);
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION directory_remove_second_factor(uuid) IS 'Takes a user''s authenticator application away, with everything that is worth something through it only; for a tenant, of a user who is at home there.';
REVOKE ALL ON FUNCTION directory_remove_second_factor(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION directory_remove_second_factor(uuid) TO sidle_app;
