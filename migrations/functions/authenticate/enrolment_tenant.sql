CREATE OR REPLACE FUNCTION enrolment_tenant(p_tenant uuid, p_slugs text[]) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, public, pg_temp
    AS $$
    SELECT cardinality(p_slugs) = 0
        OR EXISTS (SELECT FROM tenants t WHERE t.tenant_id = p_tenant AND t.slug = ANY (p_slugs))
$$;
COMMENT ON FUNCTION enrolment_tenant(uuid, text[]) IS 'Whether a tenant is among these slugs; every tenant is when there are none. For functions that have entered the platform scope.';
REVOKE ALL ON FUNCTION enrolment_tenant(uuid, text[]) FROM PUBLIC;
