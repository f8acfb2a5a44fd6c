CREATE OR REPLACE FUNCTION audit_newest(OUT head_position bigint, OUT leaf_hash bytea)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, public, pg_temp
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    AS $$
BEGIN
    SELECT h.position INTO head_position FROM public.audit_head h ORDER BY h.position DESC LIMIT 1;
    SELECT e.leaf_hash INTO leaf_hash FROM public.audit_events e WHERE e.position = head_position;
END
$$;
COMMENT ON FUNCTION audit_newest() IS 'Position of the newest event, 0 before the first, and its hash as far as the caller''s scope reaches.';
REVOKE ALL ON FUNCTION audit_newest() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit_newest() TO sidle_app;
