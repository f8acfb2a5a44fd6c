CREATE OR REPLACE FUNCTION login_refuse_unknown(p_network text, p_now timestamptz, p_interval interval,
    p_event prepared_event) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_refusals bigint;
    v_earlier bigint;
BEGIN
    INSERT INTO unknown_refusals AS r (network, event_type, until, refusals)
        VALUES (p_network, p_event.event ->> 'event_type', p_now + p_interval, 0)
        ON CONFLICT (network, event_type) DO UPDATE SET
            refusals = CASE WHEN r.until > p_now THEN r.refusals + 1 ELSE 0 END,
            earlier = CASE WHEN r.until > p_now THEN r.earlier ELSE r.refusals END,
            until = CASE WHEN r.until > p_now THEN r.until ELSE p_now + p_interval END
        RETURNING r.refusals, r.earlier INTO v_refusals, v_earlier;
    IF v_refusals = 0 THEN
        PERFORM audit_record_with(p_event, jsonb_build_object('details', jsonb_build_object('earlier', v_earlier)));
    END IF;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION login_refuse_unknown(text, timestamptz, interval, prepared_event) IS 'Counts a refusal of an unknown identifier; records the first of an interval, with the number of others in the interval before.';
REVOKE ALL ON FUNCTION login_refuse_unknown(text, timestamptz, interval, prepared_event) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION login_refuse_unknown(text, timestamptz, interval, prepared_event) TO sidle_app;
