CREATE OR REPLACE FUNCTION login_finish(p_user uuid, p_password_version bigint, p_asked_tenant uuid, p_now timestamptz,
    p_session new_session, p_event prepared_event, p_refused prepared_event, p_device_hash bytea, p_new_device new_device,
    p_overlong boolean, p_challenge new_challenge, p_challenged prepared_event) RETURNS login_result
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    u users%ROWTYPE;
    v_result login_result;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
        -- While the hash was computed the user may have been disabled, moved to Kanidm or given another password.
        IF u.deleted_at IS NOT NULL OR u.status <> 'active' OR u.auth_method = 'kanidm'
                OR u.password_hash IS NULL OR u.password_version <> p_password_version
                OR (u.locked_until > p_now AND u.lock_reason = 'administrator') THEN
            PERFORM audit_record_with(p_refused, '{"reason": "changed_meanwhile"}');
            v_result.outcome := 'refused';
            EXIT body;
        END IF;
        -- Only the first 72 bytes were ever compared; any beyond them protect nothing.
        IF p_overlong THEN
            UPDATE users x SET must_change_password = true WHERE x.user_id = p_user;
        END IF;
        IF EXISTS (SELECT FROM user_totp t WHERE t.user_id = p_user AND t.confirmed_at IS NOT NULL) THEN
            -- Given back, not forgotten: a right password alone must not allow more guesses at the code.
            PERFORM attempt_refund(p_user, p_device_hash, p_now, false);
            DELETE FROM mfa_challenges c WHERE c.user_id = p_user AND c.expires_at <= p_now;
            INSERT INTO mfa_challenges (challenge_id, challenge_hash, user_id, password_version, known_device_hash,
                request, created_at, expires_at)
            VALUES (p_challenge.challenge_id, p_challenge.challenge_hash, p_user, p_password_version,
                p_challenge.known_device_hash, p_challenge.request, p_now, p_challenge.expires_at);
            PERFORM audit_record_with(p_challenged, jsonb_build_object('tenant_id', u.tenant_id));
            v_result.recovery_codes := EXISTS (SELECT FROM recovery_codes r WHERE r.user_id = p_user AND r.used_at IS NULL);
            v_result.outcome := 'mfa_required';
            EXIT body;
        END IF;
        v_result := login_complete(p_user, p_asked_tenant, p_now, p_session, p_event, p_refused, p_device_hash, p_new_device);
    END body;
    PERFORM rls_restore(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION login_finish(uuid, bigint, uuid, timestamptz, new_session, prepared_event, prepared_event, bytea, new_device, boolean, new_challenge, prepared_event) IS 'After the right password: completes the login, or asks for the second factor of a user who has one.';
REVOKE ALL ON FUNCTION login_finish(uuid, bigint, uuid, timestamptz, new_session, prepared_event, prepared_event, bytea, new_device, boolean, new_challenge, prepared_event) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION login_finish(uuid, bigint, uuid, timestamptz, new_session, prepared_event, prepared_event, bytea, new_device, boolean, new_challenge, prepared_event) TO sidle_app;
