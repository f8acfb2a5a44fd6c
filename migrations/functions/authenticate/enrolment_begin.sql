-- A person is given a first credential by one call at a time. Users are locked before their person's row.
CREATE OR REPLACE FUNCTION enrolment_begin(p_invitation uuid, p_user uuid, p_second_factor boolean, p_now timestamptz, p_lease uuid,
    p_lease_time interval,
    OUT outcome text, OUT person_id uuid, OUT link_id uuid, OUT link bytea, OUT wait interval)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    u users%ROWTYPE;
    e kanidm_enrolments%ROWTYPE;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
        -- While the password was compared the invitation may have died, or a second factor been added.
        IF u.user_id IS NULL OR NOT enrolment_pending(u) OR u.locked_until > p_now
                OR NOT EXISTS (SELECT FROM invitations i
                    WHERE i.user_id = p_user AND i.invitation_id = p_invitation AND i.expires_at > p_now)
                OR (NOT p_second_factor AND EXISTS (SELECT FROM user_totp t
                    WHERE t.user_id = p_user AND t.confirmed_at IS NOT NULL)) THEN
            outcome := 'gone';
            EXIT body;
        END IF;
        person_id := u.kanidm_user_id;
        INSERT INTO kanidm_enrolments AS x (person_id, lease_id, lease_until)
            VALUES (u.kanidm_user_id, p_lease, clock_timestamp() + p_lease_time)
            ON CONFLICT ON CONSTRAINT kanidm_enrolments_pkey DO UPDATE SET lease_id = excluded.lease_id, lease_until = excluded.lease_until
                WHERE x.lease_until IS NULL OR x.lease_until <= clock_timestamp()
            RETURNING * INTO e;
        IF NOT FOUND THEN
            outcome := 'busy';
            EXIT body;
        END IF;
        outcome := 'begun';
        IF e.link_until > clock_timestamp() THEN
            link_id := e.link_id;
            link := e.link;
            wait := e.link_until - clock_timestamp();
        END IF;
    END body;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION enrolment_begin(uuid, uuid, boolean, timestamptz, uuid, interval) IS 'After every proof that redeeming an invitation takes: takes the lease on the person, and gives the link that may still work.';
REVOKE ALL ON FUNCTION enrolment_begin(uuid, uuid, boolean, timestamptz, uuid, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION enrolment_begin(uuid, uuid, boolean, timestamptz, uuid, interval) TO sidle_app;
