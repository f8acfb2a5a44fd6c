-- The platform may confine a tenant, in its settings, to the domains of its users' addresses, `{"sidle": {"domains":
-- ["example.com"]}}`: then neither an administrator of the tenant nor a registration can create a user with an address
-- of another organisation. Checked by a trigger, for every statement that adds a user.
CREATE OR REPLACE FUNCTION tenant_accepts_address(p_tenant uuid, p_email_key text) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_result boolean;
BEGIN
    -- Without the setting every address is accepted; a setting that is no list accepts none.
    v_result := coalesce((SELECT jsonb_exists(t.settings #> '{sidle,domains}', substring(p_email_key FROM '[^@]*$'))
        FROM tenants t WHERE t.tenant_id = p_tenant), true);
    PERFORM rls_restore(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION tenant_accepts_address(uuid, text) IS 'Whether an address, in lower case, is in one of the domains that a tenant is confined to, if it is confined at all.';
REVOKE ALL ON FUNCTION tenant_accepts_address(uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenant_accepts_address(uuid, text) TO sidle_app;
