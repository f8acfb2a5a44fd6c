CREATE OR REPLACE FUNCTION carry_over_end(p_person uuid, p_lease uuid, p_outcome text, p_now timestamptz, p_event jsonb,
    p_personal bytea, p_mail jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    PERFORM FROM users u WHERE u.kanidm_user_id = p_person FOR NO KEY UPDATE;
    IF p_outcome IN ('done', 'credential') THEN
        UPDATE kanidm_enrolments e SET credential_seen_at = coalesce(e.credential_seen_at, p_now)
            WHERE e.person_id = p_person;
    END IF;
    UPDATE kanidm_enrolments e SET lease_id = NULL, lease_until = NULL, carry_over_at = p_now,
            carry_over_outcome = p_outcome
        WHERE e.person_id = p_person AND e.lease_id = p_lease;
    IF p_event IS NOT NULL AND jsonb_typeof(p_event) = 'object' THEN
        PERFORM audit_record(p_event, p_personal);
    END IF;
    IF p_outcome = 'done' THEN
        PERFORM mail_enqueue(p_mail);
    END IF;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION carry_over_end(uuid, uuid, text, timestamptz, jsonb, bytea, jsonb) IS 'Writes down how carrying a password over ended, and gives the lease back.';
REVOKE ALL ON FUNCTION carry_over_end(uuid, uuid, text, timestamptz, jsonb, bytea, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION carry_over_end(uuid, uuid, text, timestamptz, jsonb, bytea, jsonb) TO sidle_app;
