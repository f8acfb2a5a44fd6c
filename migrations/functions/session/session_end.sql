CREATE OR REPLACE FUNCTION session_end(p_session uuid, p_reason text, p_now timestamptz, p_event prepared_event)
    RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_tenant uuid;
    v_result boolean;
BEGIN
    <<body>>
    BEGIN
        SELECT s.tenant_id INTO v_tenant FROM sessions s WHERE s.session_id = p_session FOR NO KEY UPDATE;
        IF v_scope <> 'on' AND v_tenant IS DISTINCT FROM sidle_tenant() THEN
            v_result := false;
            EXIT body;
        END IF;
        IF NOT session_close(p_session, p_reason, p_now) THEN
            v_result := false;
            EXIT body;
        END IF;
        PERFORM audit_record_with(p_event, jsonb_build_object('tenant_id', v_tenant, 'target_kind', 'session',
            'target_id', p_session));
        v_result := true;
    END body;
    PERFORM rls_restore(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION session_end(uuid, text, timestamptz, prepared_event) IS 'Ends one session and records it; false when it had ended before. In a tenant''s transaction only sessions of that tenant.';
REVOKE ALL ON FUNCTION session_end(uuid, text, timestamptz, prepared_event) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session_end(uuid, text, timestamptz, prepared_event) TO sidle_app;
