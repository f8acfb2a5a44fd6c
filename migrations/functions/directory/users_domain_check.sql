CREATE OR REPLACE FUNCTION users_domain_check() RETURNS trigger
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_foreign boolean;
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- One query for all rows of an import's statement.
        v_foreign := EXISTS (SELECT FROM added a JOIN tenants t ON t.tenant_id = a.tenant_id
            WHERE NOT coalesce(jsonb_exists(t.settings #> '{sidle,domains}', substring(a.email_key FROM '[^@]*$')), true));
    ELSE
        v_foreign := NOT tenant_accepts_address(NEW.tenant_id, NEW.email_key);
    END IF;
    IF v_foreign THEN
        RAISE EXCEPTION 'an address is of none of the domains of the tenant'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'users_email_domain_check', TABLE = 'users';
    END IF;
    PERFORM rls_restore(v_scope);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION users_domain_check() IS 'Trigger: confines users of a tenant to addresses of the tenant''s domains, where it has any.';
REVOKE ALL ON FUNCTION users_domain_check() FROM PUBLIC;

CREATE OR REPLACE TRIGGER users_domain_of_new AFTER INSERT ON users REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION users_domain_check();
CREATE OR REPLACE TRIGGER users_domain_of_changed AFTER UPDATE OF email_key, tenant_id ON users FOR EACH ROW
    WHEN (OLD.email_key IS DISTINCT FROM NEW.email_key OR OLD.tenant_id IS DISTINCT FROM NEW.tenant_id)
    EXECUTE FUNCTION users_domain_check();
