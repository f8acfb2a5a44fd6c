-- Sessions change through functions only. This one opens no scope: it works in the platform's transactions and in no others.
CREATE OR REPLACE FUNCTION session_link_kanidm(p_session uuid, p_kanidm_session uuid, p_kanidm_refresh_token bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    IF NOT sidle_platform() THEN
        RAISE EXCEPTION 'sessions are linked in the scope of the platform' USING ERRCODE = 'insufficient_privilege';
    END IF;
    UPDATE sessions s SET auth_method = 'dual', kanidm_session_id = p_kanidm_session,
            kanidm_refresh_token = p_kanidm_refresh_token, kanidm_checked_at = clock_timestamp()
        WHERE s.session_id = p_session;
END
$$;
COMMENT ON FUNCTION session_link_kanidm(uuid, uuid, bytea) IS 'Marks a session whose user has just linked a person as authenticated by Kanidm as well.';
REVOKE ALL ON FUNCTION session_link_kanidm(uuid, uuid, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session_link_kanidm(uuid, uuid, bytea) TO sidle_app;
