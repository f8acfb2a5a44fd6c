CREATE OR REPLACE FUNCTION session_kanidm_due(p_older_than interval, p_limit integer, p_lease uuid, p_lease_time interval)
    RETURNS TABLE (session_id uuid, kanidm_user_id uuid, kanidm_refresh_token bytea)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_now timestamptz := clock_timestamp();
BEGIN
    -- A refresh of a session asks Kanidm about it anyway: those are left out, and so are locked ones.
    RETURN QUERY WITH due AS MATERIALIZED (
        SELECT s.session_id, u.kanidm_user_id FROM sessions s JOIN users u ON u.user_id = s.user_id
        WHERE s.status = 'active' AND s.kanidm_refresh_token IS NOT NULL AND s.kanidm_checked_at <= v_now - p_older_than
            AND coalesce(greatest(s.kanidm_lease_until, s.kanidm_check_until) <= v_now, true)
            AND u.kanidm_user_id IS NOT NULL AND u.auth_method <> 'password' AND u.status = 'active'
            AND u.deleted_at IS NULL
        ORDER BY s.kanidm_checked_at LIMIT p_limit FOR NO KEY UPDATE OF s SKIP LOCKED)
    UPDATE sessions s SET kanidm_lease_id = p_lease, kanidm_lease_until = v_now + p_lease_time, kanidm_renewed = false,
            kanidm_check_id = p_lease, kanidm_check_until = v_now + p_lease_time
        FROM due WHERE s.session_id = due.session_id
        RETURNING s.session_id, due.kanidm_user_id, s.kanidm_refresh_token;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION session_kanidm_due(interval, integer, uuid, interval) IS 'Leases sessions that Kanidm was not asked about for longest, the longest first.';
REVOKE ALL ON FUNCTION session_kanidm_due(interval, integer, uuid, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session_kanidm_due(interval, integer, uuid, interval) TO sidle_app;
