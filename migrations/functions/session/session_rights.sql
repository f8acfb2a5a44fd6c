-- In plpgsql, since every login and refresh calls it: a function in SQL is planned each time that it is called.
CREATE OR REPLACE FUNCTION session_rights(p_user uuid, p_tenant uuid,
    OUT member boolean, OUT roles text[], OUT permissions text[], OUT platform_permissions text[])
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    member := EXISTS (SELECT FROM memberships m JOIN tenants t ON t.tenant_id = m.tenant_id
        WHERE m.user_id = p_user AND m.tenant_id = p_tenant AND t.status = 'active' AND t.deleted_at IS NULL);
    roles := ARRAY(SELECT CASE WHEN r.tenant_id IS NULL THEN r.name ELSE 'tenant/' || r.name END
            FROM memberships m JOIN public.roles r ON r.role_id = m.role_id
            WHERE m.user_id = p_user AND m.tenant_id = p_tenant
            UNION SELECT 'platform/' || r.name FROM platform_grants g JOIN public.roles r ON r.role_id = g.role_id
            WHERE g.user_id = p_user ORDER BY 1);
    permissions := ARRAY(SELECT DISTINCT permission FROM memberships m JOIN public.roles r ON r.role_id = m.role_id,
            unnest(r.permissions) permission
        WHERE m.user_id = p_user AND m.tenant_id = p_tenant AND NOT r.is_platform ORDER BY 1);
    platform_permissions := ARRAY(SELECT DISTINCT permission FROM platform_grants g
            JOIN public.roles r ON r.role_id = g.role_id, unnest(r.permissions) permission
        WHERE g.user_id = p_user AND r.is_platform ORDER BY 1);
END
$$;
COMMENT ON FUNCTION session_rights(uuid, uuid) IS 'What a user is and may do in a tenant and on the platform, as it is now.';
REVOKE ALL ON FUNCTION session_rights(uuid, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session_rights(uuid, uuid) TO sidle_app;
