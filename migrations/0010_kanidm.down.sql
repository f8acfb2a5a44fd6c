-- Takes away what 0010 made, and gives the functions that it replaced their old bodies. Links and users that were made by it
-- stay.
DROP FUNCTION kanidm_token_user(uuid), session_kanidm_due(interval, integer, uuid, interval),
    kanidm_link_finish(uuid, uuid, uuid, uuid[], jsonb, timestamptz, jsonb, bytea, jsonb, bytea, jsonb, jsonb, jsonb),
    kanidm_login_finish(uuid, uuid[], jsonb, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb, jsonb, bytea),
    kanidm_first_login(uuid, uuid[], jsonb, uuid, timestamptz, jsonb, bytea),
    kanidm_login_take(bytea, bytea, text[], uuid, uuid, timestamptz), kanidm_group_rights(uuid[]),
    kanidm_person_refusal(uuid, uuid), kanidm_link_refusal(uuid, uuid),
    kanidm_login_begin(jsonb, bytea);

-- Only logins are known to the release before.
DELETE FROM kanidm_logins WHERE purpose <> 'login';
-- A session that both sides vouched for goes on as the password's.
UPDATE sessions SET auth_method = 'jwt', kanidm_refresh_token = NULL WHERE auth_method = 'dual';

CREATE OR REPLACE FUNCTION session_kanidm_renewed(p_session uuid, p_lease uuid, p_kanidm_refresh_token bytea, p_groups uuid[],
    p_now timestamptz, p_event jsonb, OUT ended uuid, OUT tokens_valid_from timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_user uuid;
BEGIN
    SELECT s.user_id INTO v_user FROM sessions s WHERE s.session_id = p_session;
    PERFORM FROM users u WHERE u.user_id = v_user FOR NO KEY UPDATE;
    UPDATE sessions s SET kanidm_refresh_token = p_kanidm_refresh_token, kanidm_renewed = true
        WHERE s.session_id = p_session AND s.kanidm_lease_id = p_lease AND s.status = 'active';
    IF FOUND THEN
        IF session_sync_groups(v_user, p_groups, p_now, p_event
                || jsonb_build_object('target_kind', 'user', 'target_id', v_user, 'session_id', p_session)) THEN
            ended := v_user;
            SELECT u.tokens_valid_from INTO tokens_valid_from FROM users u WHERE u.user_id = v_user;
        END IF;
        UPDATE users u SET kanidm_synced_at = p_now WHERE u.user_id = v_user;
    END IF;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION session_kanidm_renewed(uuid, uuid, bytea, uuid[], timestamptz, jsonb) IS 'Keeps what renewing a session at Kanidm gave: the next refresh token and the groups. Gives the user when that revoked their access tokens, and by which time.';

CREATE OR REPLACE FUNCTION session_kanidm_released(p_session uuid, p_lease uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    UPDATE sessions SET kanidm_lease_id = NULL, kanidm_lease_until = NULL
        WHERE session_id = p_session AND kanidm_lease_id = p_lease;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION session_kanidm_released(uuid, uuid) IS 'Gives a lease back when Kanidm could not be reached, so that the next attempt need not wait.';

CREATE FUNCTION kanidm_login_begin(p_login jsonb, p_pkce_verifier bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    INSERT INTO kanidm_logins (login_id, state_hash, secret_hash, nonce_hash, pkce_verifier, redirect_uri, request,
        created_at, expires_at)
    VALUES ((p_login ->> 'login_id')::uuid, decode(p_login ->> 'state_hash', 'hex'),
        decode(p_login ->> 'secret_hash', 'hex'), decode(p_login ->> 'nonce_hash', 'hex'), p_pkce_verifier,
        p_login ->> 'redirect_uri', p_login -> 'request', (p_login ->> 'created_at')::timestamptz,
        (p_login ->> 'expires_at')::timestamptz);
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION kanidm_login_begin(jsonb, bytea) IS 'Remembers a login that goes to Kanidm.';

CREATE FUNCTION kanidm_login_take(p_state_hash bytea, p_secret_hash bytea, p_now timestamptz)
    RETURNS TABLE (login_id uuid, nonce_hash bytea, pkce_verifier bytea, redirect_uri text, request jsonb, live boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    RETURN QUERY DELETE FROM kanidm_logins l WHERE l.state_hash = p_state_hash AND l.secret_hash = p_secret_hash
        RETURNING l.login_id, l.nonce_hash, l.pkce_verifier, l.redirect_uri, l.request, l.expires_at > p_now;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION kanidm_login_take(bytea, bytea, timestamptz) IS 'Takes a begun login, which can be done once.';

CREATE FUNCTION kanidm_login_finish(p_kanidm_user uuid, p_groups uuid[], p_asked_tenant uuid, p_now timestamptz,
    p_session jsonb, p_event jsonb, p_personal bytea, p_refused jsonb, p_refused_personal bytea, p_groups_event jsonb,
    p_migrated jsonb, OUT outcome text, OUT user_id uuid, OUT tenant_id uuid, OUT choices uuid[], OUT roles text[], OUT permissions text[],
    OUT platform_permissions text[], OUT tokens_valid_from timestamptz, OUT must_change_password boolean,
    OUT email text, OUT username text, OUT full_name text, OUT auth_method text, OUT first_login boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    u users%ROWTYPE;
    v_tenant record;
    v_rights record;
    v_who jsonb;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.kanidm_user_id = p_kanidm_user AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        -- A user who was rolled back to the password keeps the link for the next attempt, but does not come in by it.
        outcome := CASE
            WHEN u.user_id IS NULL OR u.auth_method = 'password' THEN 'not_linked'
            WHEN u.status <> 'active' THEN 'refused'
        END;
        v_who := jsonb_strip_nulls(jsonb_build_object('target_kind', CASE WHEN u.user_id IS NOT NULL THEN 'user' END,
            'target_id', u.user_id, 'tenant_id', u.tenant_id));
        IF outcome IS NOT NULL THEN
            PERFORM audit_record(p_refused || v_who || jsonb_build_object('reason',
                CASE outcome WHEN 'refused' THEN 'disabled' ELSE outcome END), p_refused_personal);
            EXIT body;
        END IF;
        PERFORM session_sync_groups(u.user_id, p_groups, p_now, p_groups_event || v_who);
        SELECT * INTO v_tenant FROM session_tenant(u.user_id, u.tenant_id, p_asked_tenant);
        choices := v_tenant.choices;
        IF v_tenant.outcome <> 'found' THEN
            PERFORM audit_record(p_refused || v_who || jsonb_build_object('reason', v_tenant.outcome), p_refused_personal);
            outcome := v_tenant.outcome;
            EXIT body;
        END IF;
        first_login := u.migration_completed_at IS NULL;
        UPDATE users x SET last_login_at = p_now, kanidm_synced_at = p_now,
                migration_completed_at = coalesce(x.migration_completed_at, p_now)
            WHERE x.user_id = u.user_id
            RETURNING x.tokens_valid_from INTO tokens_valid_from;
        PERFORM session_open(u.user_id, v_tenant.tenant_id, 'kanidm', p_now, p_session);
        PERFORM audit_record(p_event || v_who || jsonb_build_object('tenant_id', v_tenant.tenant_id, 'actor_kind', 'user',
            'actor_id', u.user_id, 'origin_subject', u.user_id, 'personal_subject', u.user_id, 'session_id',
            p_session ->> 'session_id', 'details', coalesce(p_event -> 'details', '{}')
            || jsonb_build_object('first_kanidm_login', first_login)), p_personal);
        IF first_login THEN
            PERFORM audit_record(p_migrated || v_who, NULL);
        END IF;
        SELECT * INTO v_rights FROM session_rights(u.user_id, v_tenant.tenant_id);
        outcome := 'signed_in';
        user_id := u.user_id;
        tenant_id := v_tenant.tenant_id;
        roles := v_rights.roles;
        permissions := v_rights.permissions;
        platform_permissions := v_rights.platform_permissions;
        -- A seeded password that must change is no matter to somebody who came without it.
        must_change_password := false;
        email := u.email;
        username := u.username;
        full_name := u.full_name;
        auth_method := u.auth_method;
    END body;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION kanidm_login_finish(uuid, uuid[], uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb) IS 'Signs in the user that is linked to a Kanidm person, with memberships as the person''s groups say.';

REVOKE ALL ON FUNCTION
    kanidm_login_begin(jsonb, bytea), kanidm_login_take(bytea, bytea, timestamptz),
    kanidm_login_finish(uuid, uuid[], uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    kanidm_login_begin(jsonb, bytea), kanidm_login_take(bytea, bytea, timestamptz),
    kanidm_login_finish(uuid, uuid[], uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb)
    TO sidle_app;

DROP INDEX idx_tenants_kanidm_first_login;
ALTER TABLE sessions DROP COLUMN kanidm_checked_at, DROP COLUMN kanidm_check_id, DROP COLUMN kanidm_check_until;
ALTER TABLE kanidm_logins DROP COLUMN purpose, DROP COLUMN user_id, DROP COLUMN session_id;
