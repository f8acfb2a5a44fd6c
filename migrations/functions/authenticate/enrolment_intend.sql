CREATE OR REPLACE FUNCTION enrolment_intend(p_person uuid, p_lease uuid, p_link_id uuid, p_lifetime interval) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_result boolean;
BEGIN
    UPDATE kanidm_enrolments e SET link_id = p_link_id, link = NULL, link_until = clock_timestamp() + p_lifetime
        WHERE e.person_id = p_person AND e.lease_id = p_lease AND e.lease_until > clock_timestamp()
            AND e.credential_seen_at IS NULL AND (e.link_until IS NULL OR e.link_until <= clock_timestamp());
    v_result := FOUND;
    PERFORM rls_restore(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION enrolment_intend(uuid, uuid, uuid, interval) IS 'Writes down that a reset link is about to be made, which is so only while none may work.';
REVOKE ALL ON FUNCTION enrolment_intend(uuid, uuid, uuid, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION enrolment_intend(uuid, uuid, uuid, interval) TO sidle_app;
