CREATE OR REPLACE FUNCTION session_kanidm_released(p_session uuid, p_lease uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    UPDATE sessions SET kanidm_lease_id = NULL, kanidm_lease_until = NULL, kanidm_renewed = false
        WHERE session_id = p_session AND kanidm_lease_id = p_lease;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION session_kanidm_released(uuid, uuid) IS 'Gives a lease back when Kanidm could not be reached, so that the next attempt need not wait.';
REVOKE ALL ON FUNCTION session_kanidm_released(uuid, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session_kanidm_released(uuid, uuid) TO sidle_app;
