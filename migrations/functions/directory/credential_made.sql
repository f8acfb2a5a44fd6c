CREATE OR REPLACE FUNCTION credential_made() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    -- The credentials of a service account of the platform are outside of the tenant for which it makes one.
    v_scope text := public.rls_enter_platform();
BEGIN
    NEW.makers := public.credential_makers(NEW.created_by);
    PERFORM public.rls_restore(v_scope);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION credential_made() IS 'Trigger: records the makers of a new credential of a service account.';
REVOKE ALL ON FUNCTION credential_made() FROM PUBLIC;

CREATE OR REPLACE TRIGGER api_keys_makers BEFORE INSERT ON api_keys FOR EACH ROW EXECUTE FUNCTION credential_made();
CREATE OR REPLACE TRIGGER service_account_certificates_makers BEFORE INSERT ON service_account_certificates
    FOR EACH ROW EXECUTE FUNCTION credential_made();
