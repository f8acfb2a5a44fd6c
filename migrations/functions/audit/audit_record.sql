-- Called by the recorder and, through audit_record_with, by the functions of hot calls, which add what only they know.
-- Address and user agent of an unknown caller belong to the subject whom the event turns out to be about.
CREATE OR REPLACE FUNCTION audit_record(p_event jsonb, p_personal bytea) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    -- The transaction has its id before the row draws an inbox_id: audit_waiting relies on that order.
    PERFORM pg_current_xact_id();
    INSERT INTO public.audit_inbox (event_id, event_type, outcome, reason, occurred_at, tenant_id, actor_kind, actor_id,
        target_kind, target_id, session_id, correlation_id, request_id, source, details, origin_subject,
        personal_subject, personal_sealed)
    VALUES ((p_event ->> 'event_id')::uuid, p_event ->> 'event_type', p_event ->> 'outcome', p_event ->> 'reason',
        (p_event ->> 'occurred_at')::timestamptz, (p_event ->> 'tenant_id')::uuid, p_event ->> 'actor_kind',
        (p_event ->> 'actor_id')::uuid, p_event ->> 'target_kind', p_event ->> 'target_id',
        (p_event ->> 'session_id')::uuid, (p_event ->> 'correlation_id')::uuid, (p_event ->> 'request_id')::uuid,
        p_event ->> 'source', coalesce(p_event -> 'details', '{}'),
        coalesce(p_event ->> 'origin_subject', p_event ->> 'personal_subject')::uuid,
        (p_event ->> 'personal_subject')::uuid, p_personal);
END
$$;
COMMENT ON FUNCTION audit_record(jsonb, bytea) IS 'Writes an event, keyed by the column names of audit_inbox, with its sealed personal data, in the current transaction.';
REVOKE ALL ON FUNCTION audit_record(jsonb, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit_record(jsonb, bytea) TO sidle_app;
