-- A tenant's administrator must not change a user who has rights elsewhere that the administrator lacks, and cannot see
-- those rights: so this function reads one user's rights across all tenants.
CREATE OR REPLACE FUNCTION directory_rights(p_user uuid) RETURNS TABLE (tenant_id uuid, permissions text[])
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    outer_scope text := coalesce(current_setting('sidle.platform', true), '');
BEGIN
    -- An owner who is not a superuser cannot declare this with SET on the function, so it is restored explicitly.
    PERFORM set_config('sidle.platform', 'on', true);
    RETURN QUERY
        SELECT m.tenant_id, r.permissions
        FROM public.memberships m JOIN public.roles r ON r.role_id = m.role_id
        WHERE m.user_id = p_user
        UNION ALL
        SELECT NULL, r.permissions
        FROM public.platform_grants g JOIN public.roles r ON r.role_id = g.role_id
        WHERE g.user_id = p_user;
    PERFORM set_config('sidle.platform', outer_scope, true);
END
$$;
COMMENT ON FUNCTION directory_rights(uuid) IS 'What a user may do, by tenant; a null tenant stands for the platform.';
REVOKE ALL ON FUNCTION directory_rights(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION directory_rights(uuid) TO sidle_app;
