CREATE OR REPLACE FUNCTION enrolment_release(p_person uuid, p_lease uuid, p_unmade uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    UPDATE kanidm_enrolments e SET lease_id = NULL, lease_until = NULL
        WHERE e.person_id = p_person AND e.lease_id = p_lease;
    UPDATE kanidm_enrolments e SET link_id = NULL, link = NULL, link_until = NULL
        WHERE e.person_id = p_person AND e.link_id = p_unmade;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION enrolment_release(uuid, uuid, uuid) IS 'Gives the lease on a person back, and forgets a reset link that Kanidm said it did not make.';
REVOKE ALL ON FUNCTION enrolment_release(uuid, uuid, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION enrolment_release(uuid, uuid, uuid) TO sidle_app;
