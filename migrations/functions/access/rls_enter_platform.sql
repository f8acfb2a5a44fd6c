CREATE OR REPLACE FUNCTION rls_enter_platform() RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := coalesce(current_setting('sidle.platform', true), '');
BEGIN
    -- An owner who is not a superuser cannot declare this with SET on the functions themselves.
    PERFORM set_config('sidle.platform', 'on', true);
    RETURN v_scope;
END
$$;
COMMENT ON FUNCTION rls_enter_platform() IS 'Enters the platform scope for the rest of a function, and returns the scope to restore.';
REVOKE ALL ON FUNCTION rls_enter_platform() FROM PUBLIC;
