-- The only function that removes factors; its callers record that and notify the user. No tenant sees the rows, so a
-- tenant's administrators use this function, which reveals nothing else.
CREATE OR REPLACE FUNCTION directory_remove_second_factor(p_user uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    -- The row-level security of the caller applies to the user's row, whatever the caller claims to have checked.
    IF v_scope <> 'on' AND NOT EXISTS (
            SELECT FROM users u WHERE u.user_id = p_user AND u.tenant_id = sidle_tenant()) THEN
        RAISE insufficient_privilege USING MESSAGE = 'the user is at home in another tenant';
    END IF;
    DELETE FROM recovery_codes r WHERE r.user_id = p_user;
    DELETE FROM user_totp t WHERE t.user_id = p_user;
    DELETE FROM mfa_challenges c WHERE c.user_id = p_user;
    PERFORM pending_void(p_user);
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION directory_remove_second_factor(uuid) IS 'Removes a user''s authenticator application and recovery codes, with everything that depends on them; for a tenant, of a user whose home tenant it is.';
REVOKE ALL ON FUNCTION directory_remove_second_factor(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION directory_remove_second_factor(uuid) TO sidle_app;
