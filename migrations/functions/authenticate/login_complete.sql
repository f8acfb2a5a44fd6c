CREATE OR REPLACE FUNCTION login_complete(p_user uuid, p_asked_tenant uuid, p_now timestamptz, p_session jsonb, p_event jsonb,
    p_personal bytea, p_refused jsonb, p_refused_personal bytea, p_device_hash bytea, p_new_device jsonb,
    OUT outcome text, OUT tenant_id uuid, OUT choices uuid[], OUT roles text[], OUT permissions text[],
    OUT platform_permissions text[], OUT tokens_valid_from timestamptz, OUT must_change_password boolean,
    OUT email text, OUT username text, OUT full_name text, OUT auth_method text, OUT known_device boolean)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    u users%ROWTYPE;
    v_tenant record;
    v_rights record;
BEGIN
    SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
    -- Between begin and end the user may have been disabled, locked or moved to Kanidm.
    IF u.user_id IS NULL OR u.deleted_at IS NOT NULL OR u.status <> 'active' OR u.auth_method = 'kanidm'
            OR (u.locked_until > p_now AND u.lock_reason = 'administrator') THEN
        PERFORM audit_record(p_refused || '{"reason": "changed_meanwhile"}', p_refused_personal);
        outcome := 'refused';
        RETURN;
    END IF;
    PERFORM attempt_succeeded(p_user, p_device_hash, p_now);
    SELECT * INTO v_tenant FROM session_tenant(p_user, u.tenant_id, p_asked_tenant);
    choices := v_tenant.choices;
    IF v_tenant.outcome <> 'found' THEN
        PERFORM audit_record(p_refused || jsonb_build_object('reason', v_tenant.outcome), p_refused_personal);
        outcome := v_tenant.outcome;
        RETURN;
    END IF;
    UPDATE users x SET last_login_at = p_now WHERE x.user_id = p_user;
    PERFORM session_open(p_user, v_tenant.tenant_id, 'jwt', p_now, p_session);
    UPDATE known_devices x SET last_used_at = p_now, expires_at = (p_new_device ->> 'expires_at')::timestamptz
        WHERE x.token_hash = p_device_hash AND x.user_id = p_user AND x.expires_at > p_now;
    known_device := FOUND;
    IF NOT known_device THEN
        INSERT INTO known_devices (known_device_id, user_id, token_hash, created_at, expires_at)
        VALUES ((p_new_device ->> 'known_device_id')::uuid, p_user, decode(p_new_device ->> 'token_hash', 'hex'), p_now,
            (p_new_device ->> 'expires_at')::timestamptz);
        -- Those go first that never came back: a program that keeps nothing pushes out no device that does.
        DELETE FROM known_devices x WHERE x.known_device_id IN (
            SELECT d.known_device_id FROM known_devices d
            WHERE d.user_id = p_user AND d.token_hash <> decode(p_new_device ->> 'token_hash', 'hex')
            ORDER BY d.expires_at > p_now DESC, d.last_used_at DESC NULLS LAST, d.created_at DESC
            OFFSET greatest((p_new_device ->> 'most')::integer - 1, 0));
    END IF;
    PERFORM audit_record(p_event || jsonb_build_object('tenant_id', v_tenant.tenant_id, 'details',
        coalesce(p_event -> 'details', '{}') || jsonb_build_object('known_device', known_device)), p_personal);
    SELECT * INTO v_rights FROM session_rights(p_user, v_tenant.tenant_id);
    outcome := 'signed_in';
    tenant_id := v_tenant.tenant_id;
    roles := v_rights.roles;
    permissions := v_rights.permissions;
    platform_permissions := v_rights.platform_permissions;
    tokens_valid_from := u.tokens_valid_from;
    must_change_password := u.must_change_password;
    email := u.email;
    username := u.username;
    full_name := u.full_name;
    auth_method := u.auth_method;
END
$$;
COMMENT ON FUNCTION login_complete(uuid, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, bytea, jsonb) IS 'After every factor: forgets the failures, begins a session, makes the device known and tells what the user may do. For functions that have entered the platform scope.';
REVOKE ALL ON FUNCTION login_complete(uuid, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, bytea, jsonb) FROM PUBLIC;
