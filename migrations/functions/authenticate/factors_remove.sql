-- The one place that takes factors away; whoever calls it records it and tells the user.
CREATE OR REPLACE FUNCTION factors_remove(p_user uuid) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_there boolean := EXISTS (SELECT FROM user_totp t WHERE t.user_id = p_user AND t.confirmed_at IS NOT NULL);
BEGIN
    DELETE FROM recovery_codes r WHERE r.user_id = p_user;
    DELETE FROM user_totp t WHERE t.user_id = p_user;
    DELETE FROM mfa_challenges c WHERE c.user_id = p_user;
    PERFORM pending_void(p_user);
    RETURN v_there;
END
$$;
COMMENT ON FUNCTION factors_remove(uuid) IS 'Takes a user''s authenticator application and recovery codes away, with everything that is worth something through them only; tells whether there was one. For functions that have entered the platform scope.';
REVOKE ALL ON FUNCTION factors_remove(uuid) FROM PUBLIC;
