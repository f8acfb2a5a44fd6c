CREATE OR REPLACE FUNCTION login_complete(p_user uuid, p_asked_tenant uuid, p_now timestamptz, p_session new_session,
    p_event prepared_event, p_refused prepared_event, p_device_hash bytea, p_new_device new_device) RETURNS login_result
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    u users%ROWTYPE;
    v_tenant record;
    v_rights record;
    v_result login_result;
BEGIN
    SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
    -- Between begin and end the user may have been disabled, locked or moved to Kanidm.
    IF u.user_id IS NULL OR u.deleted_at IS NOT NULL OR u.status <> 'active' OR u.auth_method = 'kanidm'
            OR (u.locked_until > p_now AND u.lock_reason = 'administrator') THEN
        PERFORM audit_record_with(p_refused, '{"reason": "changed_meanwhile"}');
        v_result.outcome := 'refused';
        RETURN v_result;
    END IF;
    PERFORM attempt_succeeded(p_user, p_device_hash, p_now);
    SELECT * INTO v_tenant FROM session_tenant(p_user, u.tenant_id, p_asked_tenant);
    IF v_tenant.outcome <> 'found' THEN
        PERFORM audit_record_with(p_refused, jsonb_build_object('reason', v_tenant.outcome));
        v_result.outcome := v_tenant.outcome::text::login_outcome;
        v_result.choices := v_tenant.choices;
        RETURN v_result;
    END IF;
    UPDATE users x SET last_login_at = p_now WHERE x.user_id = p_user;
    PERFORM session_open(p_user, v_tenant.tenant_id, 'jwt', p_now, p_session);
    UPDATE known_devices x SET last_used_at = p_now, expires_at = p_new_device.expires_at
        WHERE x.token_hash = p_device_hash AND x.user_id = p_user AND x.expires_at > p_now;
    v_result.known_device := FOUND;
    IF NOT v_result.known_device THEN
        INSERT INTO known_devices (known_device_id, user_id, token_hash, created_at, expires_at)
        VALUES (p_new_device.known_device_id, p_user, p_new_device.token_hash, p_now, p_new_device.expires_at);
        -- Devices that never came back are forgotten first: a client that keeps nothing displaces no device that does.
        DELETE FROM known_devices x WHERE x.known_device_id IN (
            SELECT d.known_device_id FROM known_devices d
            WHERE d.user_id = p_user AND d.token_hash <> p_new_device.token_hash
            ORDER BY d.expires_at > p_now DESC, d.last_used_at DESC NULLS LAST, d.created_at DESC
            OFFSET greatest(p_new_device.most - 1, 0));
    END IF;
    PERFORM audit_record_with(p_event, jsonb_build_object('tenant_id', v_tenant.tenant_id, 'details',
        jsonb_build_object('known_device', v_result.known_device)));
    SELECT * INTO v_rights FROM session_rights(p_user, v_tenant.tenant_id);
    v_result.outcome := 'signed_in';
    v_result.account := ROW(u.user_id, u.email, u.username, u.full_name, u.auth_method)::login_account;
    v_result.rights := ROW(v_tenant.tenant_id, v_rights.roles, v_rights.permissions, v_rights.platform_permissions,
        u.tokens_valid_from, u.must_change_password)::user_rights;
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION login_complete(uuid, uuid, timestamptz, new_session, prepared_event, prepared_event, bytea, new_device) IS 'After every factor: forgets the failures, begins a session, makes the device known and returns what the user may do. For functions that have entered the platform scope.';
REVOKE ALL ON FUNCTION login_complete(uuid, uuid, timestamptz, new_session, prepared_event, prepared_event, bytea, new_device) FROM PUBLIC;
