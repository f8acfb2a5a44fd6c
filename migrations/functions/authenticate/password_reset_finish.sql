CREATE OR REPLACE FUNCTION password_reset_finish(p_user uuid, p_now timestamptz, OUT sessions uuid[], OUT tokens_valid_from timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    UPDATE one_time_tokens t SET used_at = p_now WHERE t.user_id = p_user AND t.used_at IS NULL;
    -- Whoever follows the link reads what is sent to the address.
    UPDATE users u SET verified_by_tenant = false WHERE u.user_id = p_user AND u.verified_by_tenant;
    tokens_valid_from := tokens_revoke(ARRAY[p_user], NULL);
    sessions := session_end_all(p_user, NULL, 'credential_changed', p_now);
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION password_reset_finish(uuid, timestamptz) IS 'After a password was set by mail: no token of the user''s is worth anything any more, and no session goes on.';
REVOKE ALL ON FUNCTION password_reset_finish(uuid, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION password_reset_finish(uuid, timestamptz) TO sidle_app;
