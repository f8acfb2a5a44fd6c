CREATE OR REPLACE FUNCTION mfa_finish(p_challenge_hash bytea, p_totp uuid, p_step bigint, p_code_hashes bytea[],
    p_asked_tenant uuid, p_now timestamptz, p_session jsonb, p_event jsonb, p_personal bytea, p_refused jsonb,
    p_refused_personal bytea, p_new_device jsonb, p_code_event jsonb, p_code_personal bytea, p_mail jsonb,
    OUT outcome text, OUT tenant_id uuid, OUT choices uuid[], OUT roles text[], OUT permissions text[],
    OUT platform_permissions text[], OUT tokens_valid_from timestamptz, OUT must_change_password boolean,
    OUT email text, OUT username text, OUT full_name text, OUT auth_method text, OUT known_device boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_user uuid;
    c mfa_challenges%ROWTYPE;
    u users%ROWTYPE;
    v_refusal text;
    v_done record;
BEGIN
    <<body>>
    BEGIN
        SELECT x.user_id INTO v_user FROM mfa_challenges x WHERE x.challenge_hash = p_challenge_hash;
        SELECT * INTO u FROM users x WHERE x.user_id = v_user FOR NO KEY UPDATE;
        -- Read after the user is locked: of two that complete the same login the second finds nothing.
        SELECT * INTO c FROM mfa_challenges x WHERE x.challenge_hash = p_challenge_hash;
        v_refusal := CASE
            WHEN c.challenge_id IS NULL THEN 'challenge_spent'
            WHEN c.expires_at <= p_now THEN 'challenge_lapsed'
            WHEN u.password_hash IS NULL OR u.password_version <> c.password_version THEN 'changed_meanwhile'
            WHEN NOT factor_consume(u.user_id, p_totp, p_step, p_code_hashes, p_now)
                THEN CASE WHEN p_step IS NULL THEN 'wrong_code' ELSE 'replayed' END
        END;
        IF v_refusal IS NOT NULL THEN
            -- The service records it, since it may have led to a lock.
            outcome := v_refusal;
            EXIT body;
        END IF;
        DELETE FROM mfa_challenges x WHERE x.challenge_id = c.challenge_id;
        IF p_step IS NULL THEN
            PERFORM audit_record(p_code_event || jsonb_build_object('tenant_id', u.tenant_id, 'details',
                jsonb_build_object('left', (SELECT count(*) FROM recovery_codes r
                    WHERE r.user_id = u.user_id AND r.used_at IS NULL))), p_code_personal);
            PERFORM mail_enqueue(p_mail);
        END IF;
        SELECT * INTO v_done FROM login_complete(u.user_id, p_asked_tenant, p_now, p_session, p_event, p_personal,
            p_refused, p_refused_personal, decode(c.request ->> 'known_device', 'hex'), p_new_device);
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
COMMENT ON FUNCTION mfa_finish(bytea, uuid, bigint, bytea[], uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb, bytea, jsonb) IS 'After the right code: spends it and the challenge, and completes the login; a code that was used before is refused like a wrong one.';
REVOKE ALL ON FUNCTION mfa_finish(bytea, uuid, bigint, bytea[], uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb, bytea, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mfa_finish(bytea, uuid, bigint, bytea[], uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb, bytea, jsonb) TO sidle_app;
