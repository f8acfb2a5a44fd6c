CREATE OR REPLACE FUNCTION login_refuse(p_event prepared_event, p_lock prepared_event) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    PERFORM audit_record(p_event.event, p_event.personal);
    IF p_lock.event IS NOT NULL THEN
        PERFORM audit_record(p_lock.event, p_lock.personal);
        PERFORM lock_recorded(p_lock);
    END IF;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION login_refuse(prepared_event, prepared_event) IS 'Records a refused login, and the lock that it led to.';
REVOKE ALL ON FUNCTION login_refuse(prepared_event, prepared_event) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION login_refuse(prepared_event, prepared_event) TO sidle_app;
