CREATE OR REPLACE FUNCTION known_devices_unlock(p_user uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    UPDATE known_devices d SET failed_attempts = 0, second_factor_failures = 0, locked_until = NULL FROM users u
        WHERE d.user_id = p_user AND u.user_id = d.user_id AND (v_scope = 'on' OR u.tenant_id = sidle_tenant());
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION known_devices_unlock(uuid) IS 'Forgets the failures from a user''s known devices; in a tenant''s transaction only of its own users.';
REVOKE ALL ON FUNCTION known_devices_unlock(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION known_devices_unlock(uuid) TO sidle_app;
