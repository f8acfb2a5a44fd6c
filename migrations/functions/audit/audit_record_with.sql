-- Gives the service nothing that audit_record does not; session_sync_groups, which runs as whoever calls it, needs it.
CREATE OR REPLACE FUNCTION audit_record_with(p_event prepared_event, p_known jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    PERFORM audit_record(p_event.event || p_known || jsonb_build_object('details',
        coalesce(p_event.event -> 'details', '{}') || coalesce(p_known -> 'details', '{}')), p_event.personal);
END
$$;
COMMENT ON FUNCTION audit_record_with(prepared_event, jsonb) IS 'Records a prepared event with what only the database knows: columns of audit_inbox, which are set, and details, which are added. For functions.';
REVOKE ALL ON FUNCTION audit_record_with(prepared_event, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit_record_with(prepared_event, jsonb) TO sidle_app;
