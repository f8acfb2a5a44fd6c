CREATE OR REPLACE FUNCTION login_finish(p_user uuid, p_password_version bigint, p_asked_tenant uuid, p_now timestamptz, p_session jsonb,
    p_event jsonb, p_personal bytea, p_refused jsonb, p_refused_personal bytea, p_device_hash bytea, p_new_device jsonb,
    p_overlong boolean, p_challenge jsonb, p_challenged jsonb, p_challenged_personal bytea,
    OUT outcome text, OUT tenant_id uuid, OUT choices uuid[], OUT roles text[], OUT permissions text[],
    OUT platform_permissions text[], OUT tokens_valid_from timestamptz, OUT must_change_password boolean,
    OUT email text, OUT username text, OUT full_name text, OUT auth_method text, OUT known_device boolean,
    OUT recovery_codes boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    u users%ROWTYPE;
    v_done record;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
        -- While the hash was computed the user may have been disabled, moved to Kanidm or given another password.
        IF u.deleted_at IS NOT NULL OR u.status <> 'active' OR u.auth_method = 'kanidm'
                OR u.password_hash IS NULL OR u.password_version <> p_password_version
                OR (u.locked_until > p_now AND u.lock_reason = 'administrator') THEN
            PERFORM audit_record(p_refused || '{"reason": "changed_meanwhile"}', p_refused_personal);
            outcome := 'refused';
            EXIT body;
        END IF;
        -- Only the first 72 bytes were ever compared; what is beyond them protects nothing.
        IF p_overlong THEN
            UPDATE users x SET must_change_password = true WHERE x.user_id = p_user;
        END IF;
        IF EXISTS (SELECT FROM user_totp t WHERE t.user_id = p_user AND t.confirmed_at IS NOT NULL) THEN
            -- Given back, not forgotten: a right password alone must not make room for more guesses at the code.
            PERFORM attempt_refund(p_user, p_device_hash, p_now, false);
            DELETE FROM mfa_challenges c WHERE c.user_id = p_user AND c.expires_at <= p_now;
            INSERT INTO mfa_challenges (challenge_id, challenge_hash, user_id, password_version, request, created_at,
                expires_at)
            VALUES ((p_challenge ->> 'challenge_id')::uuid, decode(p_challenge ->> 'challenge_hash', 'hex'), p_user,
                p_password_version, p_challenge -> 'request', p_now, (p_challenge ->> 'expires_at')::timestamptz);
            PERFORM audit_record(p_challenged || jsonb_build_object('tenant_id', u.tenant_id), p_challenged_personal);
            recovery_codes := EXISTS (SELECT FROM recovery_codes r WHERE r.user_id = p_user AND r.used_at IS NULL);
            outcome := 'mfa_required';
            EXIT body;
        END IF;
        SELECT * INTO v_done FROM login_complete(p_user, p_asked_tenant, p_now, p_session, p_event, p_personal, p_refused,
            p_refused_personal, p_device_hash, p_new_device);
        outcome := v_done.outcome;
        tenant_id := v_done.tenant_id;
        choices := v_done.choices;
        roles := v_done.roles;
        permissions := v_done.permissions;
        platform_permissions := v_done.platform_permissions;
        tokens_valid_from := v_done.tokens_valid_from;
        must_change_password := v_done.must_change_password;
        email := v_done.email;
        username := v_done.username;
        full_name := v_done.full_name;
        auth_method := v_done.auth_method;
        known_device := v_done.known_device;
    END body;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION login_finish(uuid, bigint, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, bytea, jsonb, boolean, jsonb, jsonb, bytea) IS 'After the right password: completes the login, or asks for the second factor of a user who has one.';
REVOKE ALL ON FUNCTION login_finish(uuid, bigint, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, bytea, jsonb, boolean, jsonb, jsonb, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION login_finish(uuid, bigint, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, bytea, jsonb, boolean, jsonb, jsonb, bytea) TO sidle_app;
