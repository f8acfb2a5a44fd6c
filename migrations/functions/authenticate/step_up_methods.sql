-- A user with a second factor reauthenticates with it: otherwise the password alone would suffice to remove the factor.
-- A login through Kanidm is an authentication method of its own and proves as much.
CREATE OR REPLACE FUNCTION step_up_methods(p_user uuid) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, public, pg_temp
    AS $$
    SELECT CASE
            WHEN EXISTS (SELECT FROM user_totp t WHERE t.user_id = u.user_id AND t.confirmed_at IS NOT NULL)
                THEN CASE WHEN EXISTS (SELECT FROM recovery_codes r WHERE r.user_id = u.user_id AND r.used_at IS NULL)
                    THEN ARRAY['totp', 'recovery_code'] ELSE ARRAY['totp'] END
            WHEN u.password_hash IS NOT NULL AND u.auth_method <> 'kanidm' THEN ARRAY['password']
            ELSE '{}'::text[]
        END || CASE WHEN u.kanidm_user_id IS NOT NULL AND u.auth_method <> 'password'
            THEN ARRAY['kanidm'] ELSE '{}'::text[] END
    FROM users u WHERE u.user_id = p_user AND u.deleted_at IS NULL
$$;
COMMENT ON FUNCTION step_up_methods(uuid) IS 'How a user can reauthenticate. For functions that have entered the platform scope, and for the platform.';
REVOKE ALL ON FUNCTION step_up_methods(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION step_up_methods(uuid) TO sidle_app;
