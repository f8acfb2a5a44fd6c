CREATE OR REPLACE FUNCTION carry_over_begin(p_user uuid, p_password_version bigint, p_tenants jsonb, p_now timestamptz,
    p_again_after interval, p_lease uuid, p_lease_time interval,
    OUT person_id uuid, OUT tenant_id uuid, OUT password_changed_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    u users%ROWTYPE;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
        IF u.user_id IS NULL OR u.must_change_password OR u.locked_until > p_now OR NOT enrolment_pending(u)
                OR u.password_hash IS NULL OR u.password_version <> p_password_version OR NOT enrolment_tenant(u.tenant_id, p_tenants)
                OR EXISTS (SELECT FROM user_totp t WHERE t.user_id = p_user AND t.confirmed_at IS NOT NULL) THEN
            EXIT body;
        END IF;
        -- Not beside a reset link: whoever has it could undo what is carried over.
        INSERT INTO kanidm_enrolments AS e (person_id, lease_id, lease_until)
            VALUES (u.kanidm_user_id, p_lease, clock_timestamp() + p_lease_time)
            ON CONFLICT ON CONSTRAINT kanidm_enrolments_pkey DO UPDATE SET lease_id = excluded.lease_id, lease_until = excluded.lease_until
                WHERE (e.lease_until IS NULL OR e.lease_until <= clock_timestamp())
                    AND (e.link_until IS NULL OR e.link_until <= clock_timestamp())
                    AND (e.carry_over_at IS NULL OR e.carry_over_outcome IN ('unavailable', 'dropped')
                        OR e.carry_over_at + p_again_after <= p_now OR e.carry_over_at <= u.password_changed_at);
        IF NOT FOUND THEN
            EXIT body;
        END IF;
        person_id := u.kanidm_user_id;
        tenant_id := u.tenant_id;
        password_changed_at := u.password_changed_at;
    END body;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION carry_over_begin(uuid, bigint, jsonb, timestamptz, interval, uuid, interval) IS 'Takes the lease on the person of a user whose password may be carried over; no person when it may not.';
REVOKE ALL ON FUNCTION carry_over_begin(uuid, bigint, jsonb, timestamptz, interval, uuid, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION carry_over_begin(uuid, bigint, jsonb, timestamptz, interval, uuid, interval) TO sidle_app;
