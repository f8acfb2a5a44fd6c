CREATE OR REPLACE FUNCTION enrolment_tenant(p_tenant uuid, p_slugs jsonb) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, public, pg_temp
    AS $$
    SELECT jsonb_array_length(p_slugs) = 0
        OR EXISTS (SELECT FROM tenants t WHERE t.tenant_id = p_tenant AND p_slugs ? t.slug)
$$;
COMMENT ON FUNCTION enrolment_tenant(uuid, jsonb) IS 'Whether a tenant is among these slugs; every tenant is when there are none. For functions that have entered the platform scope.';
REVOKE ALL ON FUNCTION enrolment_tenant(uuid, jsonb) FROM PUBLIC;
