DROP FUNCTION guessing_tidy(timestamptz);
DROP FUNCTION password_change(uuid, uuid, jsonb, jsonb, timestamptz, interval, interval, jsonb, bytea);
DROP FUNCTION login_finish(uuid, bigint, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, bytea, jsonb, boolean, jsonb, jsonb, bytea);
DROP FUNCTION login_complete(uuid, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, bytea, jsonb);
DROP FUNCTION login_begin(text, timestamptz, integer, interval, bytea, text, interval, interval);
DROP FUNCTION attempt_succeeded(uuid, bytea, timestamptz);
DROP FUNCTION attempt_refund(uuid, bytea, timestamptz, boolean);
DROP FUNCTION attempt_reserve(uuid, timestamptz, integer, interval, interval, bytea);
DROP FUNCTION throttle_take(text, text, timestamptz, interval, interval);
DROP FUNCTION known_devices_unlock(uuid);
DROP TRIGGER users_password_version ON users;
DROP FUNCTION users_password_version();
DROP TRIGGER users_known_devices_forget ON users;
DROP FUNCTION known_devices_forget();
DROP FUNCTION login_refuse_unknown(text, timestamptz, interval, jsonb, bytea);
DROP TABLE unknown_refusals;
DROP TABLE address_attempts;
DROP TABLE known_devices;

CREATE FUNCTION login_begin(p_identifier text, p_now timestamptz, p_max_attempts integer, p_lock interval,
    OUT user_id uuid, OUT tenant_id uuid, OUT password_hash text, OUT attempt integer, OUT refusal text,
    OUT highest_cost smallint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    u users%ROWTYPE;
BEGIN
    <<body>>
    BEGIN
        SELECT max(x.password_cost) INTO highest_cost FROM users x;
        IF position('@' IN p_identifier) > 0 THEN
            SELECT * INTO u FROM users x WHERE x.email_key = p_identifier AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        ELSE
            SELECT * INTO u FROM users x WHERE x.username_key = p_identifier AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        END IF;
        user_id := u.user_id;
        tenant_id := u.tenant_id;
        refusal := CASE
            WHEN u.user_id IS NULL THEN 'unknown'
            WHEN u.locked_until > p_now THEN 'locked'
            WHEN u.status = 'disabled' THEN 'disabled'
            WHEN u.status <> 'active' THEN 'unverified'
            WHEN u.auth_method = 'kanidm' THEN 'kanidm_only'
            WHEN u.password_hash IS NULL THEN 'no_password'
        END;
        IF refusal IS NOT NULL THEN
            EXIT body;
        END IF;
        -- A lock that has run out begins a new count; the row is locked, so attempts that come together count one by one.
        attempt := CASE WHEN u.locked_until IS NULL THEN u.failed_login_attempts ELSE 0 END + 1;
        UPDATE users x SET failed_login_attempts = attempt,
                locked_until = CASE WHEN attempt >= p_max_attempts THEN p_now + p_lock END,
                lock_reason = CASE WHEN attempt >= p_max_attempts THEN 'too_many_failures' END
            WHERE x.user_id = u.user_id;
        password_hash := u.password_hash;
    END body;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION login_begin(text, timestamptz, integer, interval) IS 'Finds a user by e-mail address or username and reserves an attempt, or says why not; the last attempt locks until it is known to be right.';

CREATE FUNCTION login_finish(p_user uuid, p_password_hash text, p_asked_tenant uuid, p_now timestamptz, p_session jsonb,
    p_event jsonb, p_personal bytea, p_refused jsonb, p_refused_personal bytea,
    OUT outcome text, OUT tenant_id uuid, OUT choices uuid[], OUT roles text[], OUT permissions text[],
    OUT platform_permissions text[], OUT tokens_valid_from timestamptz, OUT must_change_password boolean,
    OUT email text, OUT username text, OUT full_name text, OUT auth_method text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    u users%ROWTYPE;
    v_tenant record;
    v_rights record;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
        -- While the hash was computed the user may have been disabled, moved to Kanidm or given another password.
        IF u.deleted_at IS NOT NULL OR u.status <> 'active' OR u.auth_method = 'kanidm'
                OR u.password_hash IS DISTINCT FROM p_password_hash
                OR (u.locked_until > p_now AND u.lock_reason = 'administrator') THEN
            PERFORM audit_record(p_refused || '{"reason": "changed_meanwhile"}', p_refused_personal);
            outcome := 'refused';
            EXIT body;
        END IF;
        UPDATE users x SET failed_login_attempts = 0, locked_until = NULL, lock_reason = NULL WHERE x.user_id = p_user;
        SELECT * INTO v_tenant FROM session_tenant(p_user, u.tenant_id, p_asked_tenant);
        choices := v_tenant.choices;
        IF v_tenant.outcome <> 'found' THEN
            PERFORM audit_record(p_refused || jsonb_build_object('reason', v_tenant.outcome), p_refused_personal);
            outcome := v_tenant.outcome;
            EXIT body;
        END IF;
        UPDATE users x SET last_login_at = p_now WHERE x.user_id = p_user;
        PERFORM session_open(p_user, v_tenant.tenant_id, 'jwt', p_now, p_session);
        PERFORM audit_record(p_event || jsonb_build_object('tenant_id', v_tenant.tenant_id), p_personal);
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
    END body;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION login_finish(uuid, text, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea) IS 'After the right password: forgets the failures, begins a session and tells what the user may do.';

REVOKE ALL ON FUNCTION login_begin(text, timestamptz, integer, interval),
    login_finish(uuid, text, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION login_begin(text, timestamptz, integer, interval),
    login_finish(uuid, text, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea) TO sidle_app;
