CREATE OR REPLACE FUNCTION registration_is_open(p_tenant uuid) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, public, pg_temp
    AS $$
    SELECT EXISTS (SELECT FROM tenants t WHERE t.tenant_id = p_tenant AND t.status = 'active' AND t.deleted_at IS NULL
        AND t.settings -> 'allow_registration' = 'true'::jsonb)
$$;
COMMENT ON FUNCTION registration_is_open(uuid) IS 'Whether anybody may register in a tenant; closed unless its settings say otherwise.';
REVOKE ALL ON FUNCTION registration_is_open(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registration_is_open(uuid) TO sidle_app;
