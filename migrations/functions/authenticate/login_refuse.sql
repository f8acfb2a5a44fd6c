CREATE OR REPLACE FUNCTION login_refuse(p_event jsonb, p_personal bytea, p_lock_event jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    PERFORM audit_record(p_event, p_personal);
    IF p_lock_event IS NOT NULL THEN
        PERFORM audit_record(p_lock_event, NULL);
        PERFORM lock_recorded(p_lock_event);
    END IF;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION login_refuse(jsonb, bytea, jsonb) IS 'Records a refused login, and the lock that it led to.';
REVOKE ALL ON FUNCTION login_refuse(jsonb, bytea, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION login_refuse(jsonb, bytea, jsonb) TO sidle_app;
