-- The one place that takes factors away; whoever calls it records it and tells the user. No tenant sees the rows, so that
-- its administrators go through this function, which knows nothing else.
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
    DELETE FROM recovery_codes r WHERE r.user_id = p_user;
    DELETE FROM user_totp t WHERE t.user_id = p_user;
    DELETE FROM mfa_challenges c WHERE c.user_id = p_user;
    PERFORM pending_void(p_user);
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION directory_remove_second_factor(uuid) IS 'Takes a user''s authenticator application and recovery codes away, with everything that is worth something through them only; for a tenant, of a user who is at home there.';
REVOKE ALL ON FUNCTION directory_remove_second_factor(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION directory_remove_second_factor(uuid) TO sidle_app;
