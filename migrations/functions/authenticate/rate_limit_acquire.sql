CREATE OR REPLACE FUNCTION rate_limit_acquire(p_lane text, p_network text, p_now timestamptz, p_spacing interval, p_burst interval)
    RETURNS interval
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_wait interval;
BEGIN
    INSERT INTO address_attempts AS a (lane, network, free_at) VALUES (p_lane, p_network, p_now + p_spacing)
        ON CONFLICT (network, lane) DO UPDATE SET free_at = greatest(a.free_at, p_now) + p_spacing
            WHERE greatest(a.free_at, p_now) + p_spacing <= p_now + p_burst;
    IF NOT FOUND THEN
        SELECT a.free_at + p_spacing - p_burst - p_now INTO v_wait FROM address_attempts a
            WHERE a.network = p_network AND a.lane = p_lane;
        v_wait := greatest(v_wait, p_spacing);
    END IF;
    PERFORM rls_restore(v_scope);
    RETURN v_wait;
END
$$;
COMMENT ON FUNCTION rate_limit_acquire(text, text, timestamptz, interval, interval) IS 'Takes one call out of the rate limit of an address, which refills by one each spacing, up to the burst; null, or how long to wait for the next.';
REVOKE ALL ON FUNCTION rate_limit_acquire(text, text, timestamptz, interval, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rate_limit_acquire(text, text, timestamptz, interval, interval) TO sidle_app;
