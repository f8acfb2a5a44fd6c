CREATE OR REPLACE FUNCTION locks_unrecorded(p_before timestamptz)
    RETURNS TABLE (user_id uuid, tenant_id uuid, known_device boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    RETURN QUERY WITH due AS MATERIALIZED (
            SELECT x.user_id FROM users x WHERE x.lock_unrecorded_at <= p_before LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED)
        UPDATE users u SET lock_unrecorded_at = NULL FROM due WHERE u.user_id = due.user_id
        RETURNING u.user_id, u.tenant_id, false;
    RETURN QUERY WITH due AS MATERIALIZED (
            SELECT x.known_device_id FROM known_devices x WHERE x.lock_unrecorded_at <= p_before
            LIMIT 1000 FOR UPDATE SKIP LOCKED)
        UPDATE known_devices d SET lock_unrecorded_at = NULL FROM due, users u
        WHERE d.known_device_id = due.known_device_id AND u.user_id = d.user_id
        RETURNING d.user_id, u.tenant_id, true;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION locks_unrecorded(timestamptz) IS 'Takes locks from before a time whose events are not written, to be recorded in the same transaction.';
REVOKE ALL ON FUNCTION locks_unrecorded(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION locks_unrecorded(timestamptz) TO sidle_app;
