CREATE OR REPLACE FUNCTION enrolment_minted(p_invitation uuid, p_user uuid, p_person uuid, p_lease uuid, p_link_id uuid, p_link bytea,
    p_lifetime interval, p_now timestamptz, p_event jsonb, p_personal bytea) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    u users%ROWTYPE;
    v_result boolean := false;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
        -- Kanidm decides how long the link works; should it be longer than it was asked for, that counts.
        UPDATE kanidm_enrolments e SET link_until = greatest(e.link_until, clock_timestamp() + p_lifetime)
            WHERE e.person_id = p_person AND e.link_id = p_link_id;
        IF u.kanidm_user_id IS DISTINCT FROM p_person OR NOT enrolment_pending(u)
                OR NOT EXISTS (SELECT FROM invitations i
                    WHERE i.user_id = p_user AND i.invitation_id = p_invitation AND i.expires_at > p_now) THEN
            EXIT body;
        END IF;
        UPDATE kanidm_enrolments e SET link = p_link, lease_id = NULL, lease_until = NULL
            WHERE e.person_id = p_person AND e.link_id = p_link_id AND e.lease_id = p_lease;
        IF NOT FOUND THEN
            EXIT body;
        END IF;
        PERFORM audit_record(p_event || jsonb_build_object('tenant_id', u.tenant_id), p_personal);
        v_result := true;
    END body;
    PERFORM rls_restore(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION enrolment_minted(uuid, uuid, uuid, uuid, uuid, bytea, interval, timestamptz, jsonb, bytea) IS 'Keeps the reset link that was made, to be handed out; not when the invitation died meanwhile.';
REVOKE ALL ON FUNCTION enrolment_minted(uuid, uuid, uuid, uuid, uuid, bytea, interval, timestamptz, jsonb, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION enrolment_minted(uuid, uuid, uuid, uuid, uuid, bytea, interval, timestamptz, jsonb, bytea) TO sidle_app;
