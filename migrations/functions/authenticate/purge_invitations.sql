CREATE OR REPLACE FUNCTION purge_invitations(p_now timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    DELETE FROM invitations i WHERE i.user_id IN (
        SELECT x.user_id FROM invitations x WHERE x.expires_at <= p_now LIMIT 10000 FOR UPDATE SKIP LOCKED);
    UPDATE kanidm_enrolments e SET link = NULL WHERE e.person_id IN (
        SELECT x.person_id FROM kanidm_enrolments x WHERE x.link IS NOT NULL AND x.link_until <= clock_timestamp()
        LIMIT 10000 FOR UPDATE SKIP LOCKED);
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION purge_invitations(timestamptz) IS 'Removes invitations and sealed reset links that have lapsed; at most 10,000 of each.';
REVOKE ALL ON FUNCTION purge_invitations(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION purge_invitations(timestamptz) TO sidle_app;
