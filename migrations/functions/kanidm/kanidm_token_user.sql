CREATE OR REPLACE FUNCTION kanidm_token_user(p_person uuid)
    RETURNS TABLE (user_id uuid, tenant_id uuid, roles text[], permissions text[],
        platform_permissions text[], tokens_valid_from timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    RETURN QUERY SELECT u.user_id, t.tenant_id, r.roles, r.permissions, r.platform_permissions,
            u.tokens_valid_from
        FROM users u, session_tenant(u.user_id, u.tenant_id, NULL) t, session_rights(u.user_id, t.tenant_id) r
        WHERE u.kanidm_user_id = p_person AND u.auth_method <> 'password' AND u.status = 'active'
            AND (u.lock_reason = 'administrator' AND u.locked_until > clock_timestamp()) IS NOT TRUE
            AND u.deleted_at IS NULL AND t.outcome = 'found';
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION kanidm_token_user(uuid) IS 'The user linked to a person who presents a token of Kanidm''s own, with their rights in the home tenant; no row where no user may sign in as the person.';
REVOKE ALL ON FUNCTION kanidm_token_user(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kanidm_token_user(uuid) TO sidle_app;
