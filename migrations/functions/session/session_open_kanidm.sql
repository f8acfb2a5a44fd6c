-- Sessions change through functions only. This one opens no scope: it works in the platform's transactions and in no others.
CREATE OR REPLACE FUNCTION session_open_kanidm(p_user uuid, p_tenant uuid, p_now timestamptz, p_session new_session) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    PERFORM session_open(p_user, p_tenant, 'kanidm', p_now, p_session);
    UPDATE sessions x SET kanidm_checked_at = clock_timestamp() WHERE x.session_id = p_session.session_id;
END
$$;
COMMENT ON FUNCTION session_open_kanidm(uuid, uuid, timestamptz, new_session) IS 'Begins a session for a user whom Kanidm has just authenticated.';
REVOKE ALL ON FUNCTION session_open_kanidm(uuid, uuid, timestamptz, new_session) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session_open_kanidm(uuid, uuid, timestamptz, new_session) TO sidle_app;
