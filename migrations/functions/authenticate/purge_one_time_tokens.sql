CREATE OR REPLACE FUNCTION purge_one_time_tokens(p_now timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    DELETE FROM one_time_tokens WHERE token_id IN (SELECT t.token_id FROM one_time_tokens t WHERE t.expires_at <= p_now LIMIT 1000);
    DELETE FROM registrations WHERE registration_id IN (
        SELECT r.registration_id FROM registrations r WHERE r.expires_at <= p_now LIMIT 1000 FOR UPDATE SKIP LOCKED);
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION purge_one_time_tokens(timestamptz) IS 'Removes tokens and registrations that have lapsed.';
REVOKE ALL ON FUNCTION purge_one_time_tokens(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION purge_one_time_tokens(timestamptz) TO sidle_app;
