CREATE OR REPLACE FUNCTION rls_restore(p_scope text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    PERFORM set_config('sidle.platform', p_scope, true);
END
$$;
COMMENT ON FUNCTION rls_restore(text) IS 'Restores the scope that rls_enter_platform returned.';
REVOKE ALL ON FUNCTION rls_restore(text) FROM PUBLIC;
