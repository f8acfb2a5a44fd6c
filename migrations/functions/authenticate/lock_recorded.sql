-- An attempt is reserved before the secret is compared, and the last one locks: its event is written with the refusal.
-- Whatever comes between, such as the end of the process, leaves a lock behind whose event the housekeeping sees to.
CREATE OR REPLACE FUNCTION lock_recorded(p_lock prepared_event) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    IF p_lock.event ->> 'event_type' = 'user.device_locked' THEN
        -- One event for one lock, whichever of several devices at once it was.
        UPDATE known_devices d SET lock_unrecorded_at = NULL WHERE d.known_device_id = (
            SELECT x.known_device_id FROM known_devices x
            WHERE x.user_id = (p_lock.event ->> 'target_id')::uuid AND x.lock_unrecorded_at IS NOT NULL
            ORDER BY x.lock_unrecorded_at, x.known_device_id LIMIT 1 FOR UPDATE);
    ELSE
        UPDATE users u SET lock_unrecorded_at = NULL
            WHERE u.user_id = (p_lock.event ->> 'target_id')::uuid AND u.lock_unrecorded_at IS NOT NULL;
    END IF;
END
$$;
COMMENT ON FUNCTION lock_recorded(prepared_event) IS 'Notes that a lock has its event. For functions that have entered the platform scope.';
REVOKE ALL ON FUNCTION lock_recorded(prepared_event) FROM PUBLIC;
