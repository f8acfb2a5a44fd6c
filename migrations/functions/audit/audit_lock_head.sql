-- The end of the log for the sequencer, locked until the transaction ends; no row while another holds the lock. Finds
-- the newest version of the row from the end of its index (see the table).
CREATE OR REPLACE FUNCTION audit_lock_head(OUT head_position bigint, OUT recorded_at timestamptz, OUT newest_id bigint,
    OUT drained_id bigint)
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, public, pg_temp
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    AS $$
BEGIN
    SELECT h.position, greatest(clock_timestamp(), h.recorded_at), h.newest_id, h.drained_id
        INTO head_position, recorded_at, newest_id, drained_id
        FROM public.audit_head h ORDER BY h.position DESC LIMIT 1 FOR UPDATE SKIP LOCKED;
END
$$;
COMMENT ON FUNCTION audit_lock_head() IS 'Locks the end of the log; returns its position and the time to record the next events with, or no row while another holds the lock.';
REVOKE ALL ON FUNCTION audit_lock_head() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit_lock_head() TO sidle_app;
