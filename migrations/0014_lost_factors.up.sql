-- Whether somebody has a second factor, and taking it away for who has lost it: no tenant sees the rows, so that its
-- administrators go through functions that know nothing else.

CREATE FUNCTION directory_has_second_factor(p_user uuid) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := session_widen();
    v_found boolean;
BEGIN
    SELECT EXISTS (SELECT FROM user_totp t WHERE t.user_id = p_user AND t.confirmed_at IS NOT NULL) INTO v_found;
    PERFORM session_narrow(v_scope);
    RETURN v_found;
END
$$;
COMMENT ON FUNCTION directory_has_second_factor(uuid) IS 'Whether a user has an authenticator application.';

CREATE FUNCTION directory_remove_second_factor(p_user uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    -- As the caller's row-level security has it for the user's row, whatever the caller says that it has checked.
    IF v_scope <> 'on' AND NOT EXISTS (
            SELECT FROM users u WHERE u.user_id = p_user AND u.tenant_id = sidle_tenant()) THEN
        RAISE insufficient_privilege USING MESSAGE = 'the user is at home in another tenant';
    END IF;
    PERFORM factors_remove(p_user);
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION directory_remove_second_factor(uuid) IS 'Takes a user''s authenticator application away, with everything that is worth something through it only; for a tenant, of a user who is at home there.';

REVOKE ALL ON FUNCTION directory_has_second_factor(uuid), directory_remove_second_factor(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION directory_has_second_factor(uuid), directory_remove_second_factor(uuid) TO sidle_app;
