-- An attempt is reserved before the secret is compared, and the last one locks: its event is written with the refusal.
-- If the process ends in between, the lock is left without an event, and the housekeeping records it.
CREATE OR REPLACE FUNCTION lock_recorded(p_lock prepared_event) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    IF p_lock.event ->> 'event_type' = 'user.device_locked' THEN
        -- One event for one lock, whichever of several devices it came from.
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
COMMENT ON FUNCTION lock_recorded(prepared_event) IS 'Marks a lock as recorded. For functions that have entered the platform scope.';
REVOKE ALL ON FUNCTION lock_recorded(prepared_event) FROM PUBLIC;
