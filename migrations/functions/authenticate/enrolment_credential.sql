CREATE OR REPLACE FUNCTION enrolment_credential(p_person uuid, p_lease uuid, p_now timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    PERFORM FROM users u WHERE u.kanidm_user_id = p_person FOR NO KEY UPDATE;
    UPDATE kanidm_enrolments e SET credential_seen_at = coalesce(e.credential_seen_at, p_now)
        WHERE e.person_id = p_person;
    UPDATE kanidm_enrolments e SET lease_id = NULL, lease_until = NULL
        WHERE e.person_id = p_person AND e.lease_id = p_lease;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION enrolment_credential(uuid, uuid, timestamptz) IS 'Writes down that a person has a credential, and gives the lease back.';
REVOKE ALL ON FUNCTION enrolment_credential(uuid, uuid, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION enrolment_credential(uuid, uuid, timestamptz) TO sidle_app;
