CREATE OR REPLACE FUNCTION kanidm_group_rights(p_groups uuid[]) RETURNS TABLE (tenant_id uuid, permissions text[])
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    RETURN QUERY SELECT g.tenant_id, r.permissions FROM kanidm_tenant_groups g JOIN roles r ON r.role_id = g.role_id
        WHERE g.kanidm_group_uuid = ANY (p_groups) AND NOT r.is_platform;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION kanidm_group_rights(uuid[]) IS 'What membership in these groups of Kanidm permits, in every tenant.';
REVOKE ALL ON FUNCTION kanidm_group_rights(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kanidm_group_rights(uuid[]) TO sidle_app;
