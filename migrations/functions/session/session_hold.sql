-- A role that may update no column of a table can lock no row of it. This opens no scope: a tenant locks its own
-- sessions only.
CREATE OR REPLACE FUNCTION session_hold(p_user uuid, p_session uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    PERFORM FROM sessions s WHERE s.session_id = p_session AND s.user_id = p_user AND s.status = 'active'
        FOR NO KEY UPDATE;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION session_hold(uuid, uuid) IS 'Locks an active session of a user until the transaction ends; false when it is none.';
REVOKE ALL ON FUNCTION session_hold(uuid, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session_hold(uuid, uuid) TO sidle_app;
