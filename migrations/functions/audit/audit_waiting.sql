-- Committed events without a position, oldest first, at a cost that does not depend on how many rows were there before:
-- while a long transaction elsewhere keeps them from being removed, a scan from the beginning would read them all.
--
-- Why no event is missed. Every writer has its transaction id before it draws an inbox_id (audit_record). The
-- sequencer's transaction drained_by took its id under the lock, when every inbox_id up to drained_id was known, so a
-- writer that drew one of those has a lower transaction id than drained_by. What was visible in drained_at has its
-- position. So a row up to drained_id that is still here was written by a transaction below drained_by that drained_at
-- did not see: one that it lists as in progress, or one at or above its upper bound. Those rows are found by their
-- transaction, all others behind drained_id.
CREATE OR REPLACE FUNCTION audit_waiting(p_limit bigint) RETURNS SETOF audit_inbox
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, public, pg_temp
    -- The tables are usually empty and may be full of dead rows: their statistics are worthless.
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    AS $$
DECLARE
    head public.audit_head;
    under_way xid8[];
BEGIN
    SELECT h.* INTO head FROM public.audit_head h ORDER BY h.position DESC LIMIT 1;
    under_way := ARRAY(SELECT pg_snapshot_xip(head.drained_at));
    -- Written as a sum so that the planner does not choose the index on inbox_id.
    RETURN QUERY SELECT found.* FROM (
            (SELECT i.* FROM public.audit_inbox i WHERE i.inbox_id > head.drained_id ORDER BY i.inbox_id LIMIT p_limit)
            UNION ALL
            (SELECT i.* FROM public.audit_inbox i
             WHERE i.xact_id = ANY (under_way) AND i.inbox_id + 0 <= head.drained_id ORDER BY i.inbox_id + 0 LIMIT p_limit)
            UNION ALL
            (SELECT i.* FROM public.audit_inbox i
             WHERE i.xact_id >= pg_snapshot_xmax(head.drained_at) AND i.xact_id < head.drained_by
                 AND i.inbox_id + 0 <= head.drained_id
             ORDER BY i.inbox_id + 0 LIMIT p_limit)
        ) found ORDER BY found.inbox_id LIMIT p_limit;
END
$$;
COMMENT ON FUNCTION audit_waiting(bigint) IS 'Committed events that wait for their position, oldest first, as far as the caller''s scope reaches.';
REVOKE ALL ON FUNCTION audit_waiting(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit_waiting(bigint) TO sidle_app;
