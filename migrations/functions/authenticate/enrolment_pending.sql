CREATE OR REPLACE FUNCTION enrolment_pending(u users) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, public, pg_temp
    AS $$
    SELECT sidle_platform() AND u.auth_method = 'dual' AND u.kanidm_user_id IS NOT NULL AND u.migration_completed_at IS NULL
        AND u.status = 'active' AND u.deleted_at IS NULL AND u.password_hash IS NOT NULL
        AND NOT EXISTS (SELECT FROM kanidm_enrolments e
            WHERE e.person_id = u.kanidm_user_id AND e.credential_seen_at IS NOT NULL)
$$;
COMMENT ON FUNCTION enrolment_pending(users) IS 'Whether a user is linked to a person in Kanidm who is not known to have a credential. For functions and transactions in the platform''s scope.';
REVOKE ALL ON FUNCTION enrolment_pending(users) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION enrolment_pending(users) TO sidle_app;
