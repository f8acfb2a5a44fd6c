CREATE OR REPLACE FUNCTION carry_over_check(p_user uuid, p_person uuid, p_lease uuid, p_password_changed_at timestamptz,
    p_now timestamptz) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    u users%ROWTYPE;
    v_result boolean;
BEGIN
    SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
    v_result := u.kanidm_user_id = p_person AND enrolment_pending(u)
        AND NOT u.must_change_password AND NOT coalesce(u.locked_until > p_now, false)
        AND u.password_changed_at IS NOT DISTINCT FROM p_password_changed_at
        AND NOT EXISTS (SELECT FROM user_totp t WHERE t.user_id = p_user AND t.confirmed_at IS NOT NULL)
        AND EXISTS (SELECT FROM kanidm_enrolments e
            WHERE e.person_id = p_person AND e.lease_id = p_lease AND e.lease_until > clock_timestamp());
    PERFORM rls_restore(v_scope);
    RETURN coalesce(v_result, false);
END
$$;
COMMENT ON FUNCTION carry_over_check(uuid, uuid, uuid, timestamptz, timestamptz) IS 'Whether the password may still be carried over: asked again when only the last step is left.';
REVOKE ALL ON FUNCTION carry_over_check(uuid, uuid, uuid, timestamptz, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION carry_over_check(uuid, uuid, uuid, timestamptz, timestamptz) TO sidle_app;
