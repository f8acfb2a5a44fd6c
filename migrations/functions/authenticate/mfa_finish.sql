CREATE OR REPLACE FUNCTION mfa_finish(p_challenge_hash bytea, p_totp uuid, p_step bigint, p_code_hashes bytea[],
    p_asked_tenant uuid, p_now timestamptz, p_session new_session, p_event prepared_event, p_refused prepared_event,
    p_new_device new_device, p_code_used prepared_event, p_mail new_message) RETURNS login_result
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_user uuid;
    c mfa_challenges%ROWTYPE;
    u users%ROWTYPE;
    v_result login_result;
BEGIN
    <<body>>
    BEGIN
        SELECT x.user_id INTO v_user FROM mfa_challenges x WHERE x.challenge_hash = p_challenge_hash;
        SELECT * INTO u FROM users x WHERE x.user_id = v_user FOR NO KEY UPDATE;
        -- Read after the user is locked: of two calls that complete the same login the second finds nothing.
        SELECT * INTO c FROM mfa_challenges x WHERE x.challenge_hash = p_challenge_hash;
        v_result.refusal := CASE
            WHEN c.challenge_id IS NULL THEN 'challenge_spent'
            WHEN c.expires_at <= p_now THEN 'challenge_lapsed'
            WHEN u.password_hash IS NULL OR u.password_version <> c.password_version THEN 'changed_meanwhile'
            WHEN NOT factor_consume(u.user_id, p_totp, p_step, p_code_hashes, p_now)
                THEN CASE WHEN p_step IS NULL THEN 'wrong_code' ELSE 'replayed' END
        END::attempt_refusal;
        IF v_result.refusal IS NOT NULL THEN
            -- The service records it, since it may have led to a lock.
            v_result.outcome := 'refused';
            EXIT body;
        END IF;
        DELETE FROM mfa_challenges x WHERE x.challenge_id = c.challenge_id;
        IF p_step IS NULL THEN
            PERFORM audit_record_with(p_code_used, jsonb_build_object('tenant_id', u.tenant_id, 'details',
                jsonb_build_object('left', (SELECT count(*) FROM recovery_codes r
                    WHERE r.user_id = u.user_id AND r.used_at IS NULL))));
            PERFORM mail_enqueue(p_mail);
        END IF;
        v_result := login_complete(u.user_id, p_asked_tenant, p_now, p_session, p_event, p_refused,
            c.known_device_hash, p_new_device);
    END body;
    PERFORM rls_restore(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION mfa_finish(bytea, uuid, bigint, bytea[], uuid, timestamptz, new_session, prepared_event, prepared_event, new_device, prepared_event, new_message) IS 'After the right code: consumes it and the challenge, and completes the login; a code that was used before is refused like a wrong one.';
REVOKE ALL ON FUNCTION mfa_finish(bytea, uuid, bigint, bytea[], uuid, timestamptz, new_session, prepared_event, prepared_event, new_device, prepared_event, new_message) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mfa_finish(bytea, uuid, bigint, bytea[], uuid, timestamptz, new_session, prepared_event, prepared_event, new_device, prepared_event, new_message) TO sidle_app;
