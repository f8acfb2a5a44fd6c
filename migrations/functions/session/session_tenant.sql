CREATE OR REPLACE FUNCTION session_tenant(p_user uuid, p_home uuid, p_asked uuid,
    OUT outcome tenant_outcome, OUT tenant_id uuid, OUT choices uuid[])
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    choices := ARRAY(SELECT DISTINCT m.tenant_id FROM memberships m JOIN tenants t ON t.tenant_id = m.tenant_id
        WHERE m.user_id = p_user AND t.status = 'active' AND t.deleted_at IS NULL ORDER BY 1);
    tenant_id := coalesce(p_asked, p_home);
    IF tenant_id = ANY (choices) THEN
        outcome := 'found';
    ELSIF p_asked IS NOT NULL THEN
        outcome := 'no_tenant';
    ELSIF cardinality(choices) = 1 THEN
        outcome := 'found';
        tenant_id := choices[1];
    ELSIF cardinality(choices) > 1 THEN
        outcome := 'tenant_required';
    ELSE
        tenant_id := NULL;
        outcome := CASE WHEN EXISTS (SELECT FROM platform_grants g WHERE g.user_id = p_user)
            THEN 'found' ELSE 'no_tenant' END::tenant_outcome;
    END IF;
END
$$;
COMMENT ON FUNCTION session_tenant(uuid, uuid, uuid) IS 'The tenant that a login acts in: the requested one, else the home tenant, else the only one; none only for platform administrators.';
REVOKE ALL ON FUNCTION session_tenant(uuid, uuid, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session_tenant(uuid, uuid, uuid) TO sidle_app;
