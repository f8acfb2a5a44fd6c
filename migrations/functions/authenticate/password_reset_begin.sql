CREATE OR REPLACE FUNCTION password_reset_begin(p_token_hash bytea, p_now timestamptz,
    OUT user_id uuid, OUT tenant_id uuid, OUT email text, OUT username text, OUT full_name text, OUT has_factor boolean,
    OUT refusal text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_user uuid;
    t one_time_tokens%ROWTYPE;
    u users%ROWTYPE;
BEGIN
    -- The user before what is the user's, as everywhere.
    SELECT x.user_id INTO v_user FROM one_time_tokens x WHERE x.token_hash = p_token_hash AND x.purpose = 'password_reset';
    SELECT * INTO u FROM users x WHERE x.user_id = v_user AND x.deleted_at IS NULL FOR UPDATE;
    SELECT * INTO t FROM one_time_tokens x WHERE x.token_hash = p_token_hash AND x.purpose = 'password_reset' FOR UPDATE;
    user_id := u.user_id;
    tenant_id := u.tenant_id;
    email := u.email;
    username := u.username;
    full_name := u.full_name;
    has_factor := EXISTS (SELECT FROM user_totp x WHERE x.user_id = u.user_id AND x.confirmed_at IS NOT NULL);
    refusal := CASE
        WHEN t.token_id IS NULL OR u.user_id IS NULL THEN 'unknown'
        WHEN t.used_at IS NOT NULL THEN 'used'
        WHEN t.expires_at <= p_now THEN 'expired'
        WHEN u.status = 'disabled' THEN 'disabled'
        WHEN u.status <> 'active' OR u.verified_at IS NULL THEN 'unverified'
        WHEN t.email_key <> u.email_key THEN 'other_address'
        WHEN u.auth_method = 'kanidm' THEN 'kanidm_only'
        -- Set in another way since the token was made.
        WHEN u.password_changed_at >= t.created_at THEN 'superseded'
    END;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION password_reset_begin(bytea, timestamptz) IS 'Whose a reset token is, or why it is not accepted; holds the user until the transaction ends.';
REVOKE ALL ON FUNCTION password_reset_begin(bytea, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION password_reset_begin(bytea, timestamptz) TO sidle_app;
