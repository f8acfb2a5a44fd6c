CREATE OR REPLACE FUNCTION enrolment_reissue(p_invitation uuid, p_user uuid, p_person uuid, p_lease uuid, p_link_id uuid,
    p_now timestamptz, p_event jsonb, p_personal bytea) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    u users%ROWTYPE;
    v_result boolean;
BEGIN
    SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
    UPDATE kanidm_enrolments e SET lease_id = NULL, lease_until = NULL
        WHERE e.person_id = p_person AND e.lease_id = p_lease AND e.link_id = p_link_id AND e.link IS NOT NULL
            AND u.kanidm_user_id = p_person AND EXISTS (SELECT FROM invitations i
                WHERE i.user_id = p_user AND i.invitation_id = p_invitation AND i.expires_at > p_now);
    v_result := FOUND;
    IF v_result THEN
        PERFORM audit_record(p_event || jsonb_build_object('tenant_id', u.tenant_id), p_personal);
    END IF;
    PERFORM rls_restore(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION enrolment_reissue(uuid, uuid, uuid, uuid, uuid, timestamptz, jsonb, bytea) IS 'Hands the reset link out again that still works; not when the invitation died meanwhile.';
REVOKE ALL ON FUNCTION enrolment_reissue(uuid, uuid, uuid, uuid, uuid, timestamptz, jsonb, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION enrolment_reissue(uuid, uuid, uuid, uuid, uuid, timestamptz, jsonb, bytea) TO sidle_app;
