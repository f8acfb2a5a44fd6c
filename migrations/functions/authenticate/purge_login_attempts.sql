-- Logins that wait for a second factor go with purge_challenges.
CREATE OR REPLACE FUNCTION purge_login_attempts(p_now timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    DELETE FROM address_attempts a WHERE (a.network, a.lane) IN (
        SELECT x.network, x.lane FROM address_attempts x WHERE x.free_at <= p_now LIMIT 10000 FOR UPDATE SKIP LOCKED);
    DELETE FROM known_devices d WHERE d.known_device_id IN (
        SELECT x.known_device_id FROM known_devices x WHERE x.expires_at <= p_now LIMIT 10000);
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION purge_login_attempts(timestamptz) IS 'Removes what has lapsed: counts of addresses, known devices; at most 10,000 of each.';
REVOKE ALL ON FUNCTION purge_login_attempts(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION purge_login_attempts(timestamptz) TO sidle_app;
