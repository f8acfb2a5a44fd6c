-- Kanidm in full: logins for a purpose, users made at their first login, links proven by both sides, sessions that are
-- looked after in the background, and whom Kanidm's own tokens stand for.

-- What a login through Kanidm is for, and who asked for it.

ALTER TABLE kanidm_logins
    ADD COLUMN purpose    text NOT NULL DEFAULT 'login',
    ADD COLUMN user_id    uuid REFERENCES users ON DELETE CASCADE,
    ADD COLUMN session_id uuid REFERENCES sessions ON DELETE CASCADE,
    ADD CONSTRAINT kanidm_logins_purpose_check CHECK (purpose IN ('login', 'step_up', 'link')),
    ADD CONSTRAINT kanidm_logins_session_check
        CHECK ((purpose = 'login') = (user_id IS NULL) AND (purpose = 'login') = (session_id IS NULL));
CREATE INDEX idx_kanidm_logins_user ON kanidm_logins (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX idx_kanidm_logins_session ON kanidm_logins (session_id) WHERE session_id IS NOT NULL;
COMMENT ON COLUMN kanidm_logins.purpose IS 'login (begins a session), step_up (proves that the user of a session is there) or link (links the person to the user of a session).';
COMMENT ON COLUMN kanidm_logins.user_id IS 'Whom it is to prove or to link; null for logins.';
COMMENT ON COLUMN kanidm_logins.session_id IS 'Session that began it and alone may complete it; null for logins.';

-- When Kanidm was last asked about a session. The lease of a check stands beside the one that a refresh takes, because a
-- refresh of a session that both sides vouch for does not ask Kanidm and clears its own.

ALTER TABLE sessions
    ADD COLUMN kanidm_checked_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN kanidm_check_id    uuid,
    ADD COLUMN kanidm_check_until timestamptz;
-- Changes only when Kanidm was asked: refreshes of other sessions still stay on their page.
CREATE INDEX idx_sessions_kanidm_checked_at ON sessions (kanidm_checked_at)
    WHERE status = 'active' AND kanidm_refresh_token IS NOT NULL;
COMMENT ON COLUMN sessions.kanidm_checked_at IS 'When Kanidm last vouched for the session, by the database''s clock.';
COMMENT ON COLUMN sessions.kanidm_check_id IS 'Who is asking Kanidm about the session in the background.';
COMMENT ON COLUMN sessions.kanidm_check_until IS 'When another may ask.';

-- Tenants whose users may be born in Kanidm.
CREATE INDEX idx_tenants_kanidm_first_login ON tenants (tenant_id)
    WHERE settings @> '{"sidle": {"kanidm_first_login": true}}';

DROP FUNCTION kanidm_login_begin(jsonb, bytea);
CREATE FUNCTION kanidm_login_begin(p_login jsonb, p_pkce_verifier bytea,
    OUT outcome text, OUT about_person boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_purpose text := coalesce(p_login ->> 'purpose', 'login');
    v_user uuid := (p_login ->> 'user_id')::uuid;
    v_session uuid := (p_login ->> 'session_id')::uuid;
    v_tenant uuid := (p_login #>> '{request,tenant_id}')::uuid;
BEGIN
    <<body>>
    BEGIN
        about_person := v_purpose = 'login' AND EXISTS (SELECT FROM tenants t
            WHERE t.settings @> '{"sidle": {"kanidm_first_login": true}}' AND t.status = 'active'
                AND t.deleted_at IS NULL AND (v_tenant IS NULL OR t.tenant_id = v_tenant));
        IF v_purpose = 'link' THEN
            outcome := kanidm_link_refusal(v_user, v_session);
        ELSIF v_purpose = 'step_up' AND NOT EXISTS (SELECT FROM users u WHERE u.user_id = v_user
                AND u.kanidm_user_id IS NOT NULL AND u.auth_method <> 'password' AND u.status = 'active') THEN
            outcome := 'not_linked';
        END IF;
        IF outcome IS NOT NULL THEN
            EXIT body;
        END IF;
        INSERT INTO kanidm_logins (login_id, state_hash, secret_hash, nonce_hash, pkce_verifier, redirect_uri, request,
            created_at, expires_at, purpose, user_id, session_id)
        VALUES ((p_login ->> 'login_id')::uuid, decode(p_login ->> 'state_hash', 'hex'),
            decode(p_login ->> 'secret_hash', 'hex'), decode(p_login ->> 'nonce_hash', 'hex'), p_pkce_verifier,
            p_login ->> 'redirect_uri', p_login -> 'request', (p_login ->> 'created_at')::timestamptz,
            (p_login ->> 'expires_at')::timestamptz, v_purpose, v_user, v_session);
        outcome := 'begun';
    END body;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION kanidm_login_begin(jsonb, bytea) IS 'Remembers a login that goes to Kanidm, unless its purpose is not open to the user; tells whether a person may become a user by it.';

CREATE FUNCTION kanidm_link_refusal(p_user uuid, p_session uuid) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    u users%ROWTYPE;
    s sessions%ROWTYPE;
BEGIN
    SELECT * INTO u FROM users x WHERE x.user_id = p_user AND x.deleted_at IS NULL FOR NO KEY UPDATE;
    SELECT * INTO s FROM sessions x WHERE x.session_id = p_session AND x.user_id = p_user FOR NO KEY UPDATE;
    RETURN CASE
        WHEN u.user_id IS NULL OR u.status <> 'active' OR s.session_id IS NULL OR s.status <> 'active' THEN 'refused'
        -- A user who was rolled back keeps the link for the next attempt, and an administrator's word on it.
        WHEN u.kanidm_user_id IS NOT NULL OR u.auth_method <> 'password' THEN 'already_linked'
    END;
END
$$;
COMMENT ON FUNCTION kanidm_link_refusal(uuid, uuid) IS 'Why the user of a session may not link a person now; null when they may.';

CREATE FUNCTION kanidm_person_refusal(p_user uuid, p_person uuid) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_result text;
BEGIN
    -- Held, so that no migration can record its intent to make a person for the user meanwhile.
    PERFORM FROM migration_items i WHERE i.user_id = p_user
        AND i.state IN ('pending', 'intent_recorded', 'created', 'grouped') FOR UPDATE;
    v_result := CASE
        WHEN EXISTS (SELECT FROM migration_items i WHERE i.user_id = p_user
            AND i.state IN ('intent_recorded', 'created', 'grouped')) THEN 'migrating'
        -- Also a user who is not linked: the person that Sidle makes for them has their id.
        WHEN EXISTS (SELECT FROM users u WHERE u.user_id <> p_user
            AND (u.kanidm_user_id = p_person OR u.user_id = p_person)) THEN 'person_taken'
    END;
    PERFORM session_narrow(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION kanidm_person_refusal(uuid, uuid) IS 'Why a person may not be linked to a user: a migration is at work on the user, or the person is somebody else''s. Null when they may; until the transaction ends no migration takes the user up.';

CREATE FUNCTION kanidm_group_rights(p_groups uuid[]) RETURNS TABLE (tenant_id uuid, permissions text[])
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    RETURN QUERY SELECT g.tenant_id, r.permissions FROM kanidm_tenant_groups g JOIN roles r ON r.role_id = g.role_id
        WHERE g.kanidm_group_uuid = ANY (p_groups) AND NOT r.is_platform;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION kanidm_group_rights(uuid[]) IS 'What membership in these groups of Kanidm permits, in every tenant.';

DROP FUNCTION kanidm_login_take(bytea, bytea, timestamptz);
-- The secret is in the condition: whoever only saw the state cannot spend somebody else's attempt. So is the session of
-- an attempt that belongs to one.
CREATE FUNCTION kanidm_login_take(p_state_hash bytea, p_secret_hash bytea, p_purposes text[], p_user uuid, p_session uuid,
    p_now timestamptz)
    RETURNS TABLE (login_id uuid, nonce_hash bytea, pkce_verifier bytea, redirect_uri text, request jsonb, purpose text,
        live boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    RETURN QUERY DELETE FROM kanidm_logins l WHERE l.state_hash = p_state_hash AND l.secret_hash = p_secret_hash
            AND l.purpose = ANY (p_purposes)
            AND (l.purpose = 'login' OR (l.user_id = p_user AND l.session_id = p_session))
        RETURNING l.login_id, l.nonce_hash, l.pkce_verifier, l.redirect_uri, l.request, l.purpose, l.expires_at > p_now;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION kanidm_login_take(bytea, bytea, text[], uuid, uuid, timestamptz) IS 'Takes a begun login of these purposes, which can be done once, and only by whom it belongs to.';

CREATE FUNCTION kanidm_first_login(p_person uuid, p_groups uuid[], p_about jsonb, p_asked_tenant uuid, p_now timestamptz,
    p_created jsonb, p_created_personal bytea, OUT outcome text, OUT choices uuid[])
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public
    -- An import in progress may be writing the same address; it may take minutes.
    SET lock_timeout = '2s'
    AS $$
DECLARE
    v_tenant uuid;
    v_made boolean;
    v_constraint text;
BEGIN
    choices := ARRAY(SELECT DISTINCT t.tenant_id FROM kanidm_tenant_groups g
        JOIN tenants t ON t.tenant_id = g.tenant_id JOIN roles r ON r.role_id = g.role_id
        WHERE g.kanidm_group_uuid = ANY (p_groups) AND NOT r.is_platform AND t.status = 'active' AND t.deleted_at IS NULL
            AND t.settings @> '{"sidle": {"kanidm_first_login": true}}' ORDER BY 1);
    outcome := CASE
        WHEN cardinality(choices) = 0 THEN 'not_linked'
        WHEN p_asked_tenant IS NOT NULL AND p_asked_tenant <> ALL (choices) THEN 'not_linked'
        WHEN p_asked_tenant IS NULL AND cardinality(choices) > 1 THEN 'tenant_required'
        WHEN p_about ->> 'email' IS NULL THEN 'no_mail'
        WHEN NOT tenant_takes_address(coalesce(p_asked_tenant, choices[1]), p_about ->> 'email_key') THEN 'foreign_domain'
    END;
    IF outcome IS NOT NULL THEN
        RETURN;
    END IF;
    v_tenant := coalesce(p_asked_tenant, choices[1]);
    BEGIN
        INSERT INTO users (user_id, tenant_id, email, email_key, full_name, auth_method, kanidm_user_id, kanidm_synced_at,
            created_at, updated_at)
        VALUES (p_person, v_tenant, p_about ->> 'email', p_about ->> 'email_key', coalesce(p_about ->> 'full_name', ''),
            'kanidm', p_person, p_now, p_now, p_now);
        v_made := true;
    EXCEPTION WHEN unique_violation THEN
        GET STACKED DIAGNOSTICS v_constraint = CONSTRAINT_NAME;
        v_made := false;
    END;
    IF v_made THEN
        PERFORM audit_record(p_created || jsonb_build_object('tenant_id', v_tenant), p_created_personal);
    END IF;
    -- Not made, and linked all the same: another login of this person came first. Otherwise the id or the address is
    -- somebody else's, which gives the person nothing: an administrator decides whether the two are one.
    outcome := CASE
        WHEN v_made OR EXISTS (SELECT FROM users u WHERE u.kanidm_user_id = p_person AND u.deleted_at IS NULL) THEN 'found'
        WHEN v_constraint = 'users_email_key_key' THEN 'mail_taken'
        ELSE 'id_taken'
    END;
END
$$;
COMMENT ON FUNCTION kanidm_first_login(uuid, uuid[], jsonb, uuid, timestamptz, jsonb, bytea) IS 'Makes a user of a person whom no user is linked to, where a tenant of the person''s groups wants that; nobody is found by address or name.';

DROP FUNCTION kanidm_login_finish(uuid, uuid[], uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb);
CREATE FUNCTION kanidm_login_finish(p_kanidm_user uuid, p_groups uuid[], p_about jsonb, p_asked_tenant uuid,
    p_now timestamptz, p_session jsonb, p_event jsonb, p_personal bytea, p_refused jsonb, p_refused_personal bytea,
    p_groups_event jsonb, p_migrated jsonb, p_created jsonb, p_created_personal bytea,
    OUT outcome text, OUT user_id uuid, OUT tenant_id uuid, OUT choices uuid[], OUT roles text[], OUT permissions text[],
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
    v_first record;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.kanidm_user_id = p_kanidm_user AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        IF u.user_id IS NULL THEN
            SELECT * INTO v_first FROM kanidm_first_login(p_kanidm_user, p_groups, p_about, p_asked_tenant, p_now,
                p_created, p_created_personal);
            choices := v_first.choices;
            IF v_first.outcome <> 'found' THEN
                PERFORM audit_record(p_refused || jsonb_build_object('reason', v_first.outcome), p_refused_personal);
                outcome := CASE v_first.outcome WHEN 'tenant_required' THEN 'tenant_required' ELSE 'not_linked' END;
                EXIT body;
            END IF;
            SELECT * INTO u FROM users x WHERE x.kanidm_user_id = p_kanidm_user AND x.deleted_at IS NULL
                FOR NO KEY UPDATE;
        END IF;
        -- A user who was rolled back to the password keeps the link for the next attempt, but does not come in by it.
        outcome := CASE
            WHEN u.user_id IS NULL OR u.auth_method = 'password' THEN 'not_linked'
            WHEN u.status <> 'active' THEN 'refused'
            -- A lock after failures is for those who guess; an administrator's shuts every door.
            WHEN u.locked_until > p_now AND u.lock_reason = 'administrator' THEN 'refused'
        END;
        v_who := jsonb_strip_nulls(jsonb_build_object('target_kind', CASE WHEN u.user_id IS NOT NULL THEN 'user' END,
            'target_id', u.user_id, 'tenant_id', u.tenant_id));
        IF outcome IS NOT NULL THEN
            PERFORM audit_record(p_refused || v_who || jsonb_build_object('reason',
                CASE WHEN outcome <> 'refused' THEN outcome WHEN u.status <> 'active' THEN 'disabled' ELSE 'locked' END),
                p_refused_personal);
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
        UPDATE sessions x SET kanidm_checked_at = clock_timestamp() WHERE x.session_id = (p_session ->> 'session_id')::uuid;
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
COMMENT ON FUNCTION kanidm_login_finish(uuid, uuid[], jsonb, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb, jsonb, bytea) IS 'Signs in the user that is linked to a Kanidm person, with memberships as the person''s groups say; makes one at a first login where the tenant wants that.';

CREATE FUNCTION kanidm_link_finish(p_user uuid, p_session uuid, p_person uuid, p_groups uuid[], p_kanidm jsonb,
    p_now timestamptz, p_event jsonb, p_personal bytea, p_refused jsonb,
    p_refused_personal bytea, p_groups_event jsonb, p_migrated jsonb, p_notice jsonb, OUT outcome text, OUT ended uuid[],
    OUT tokens_valid_from timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_who jsonb;
BEGIN
    v_who := jsonb_build_object('target_kind', 'user', 'target_id', p_user, 'session_id', p_session);
    SELECT v_who || jsonb_build_object('tenant_id', u.tenant_id) INTO v_who FROM users u WHERE u.user_id = p_user;
    -- Items of migrations before users, as the engine locks them.
    outcome := kanidm_person_refusal(p_user, p_person);
    outcome := coalesce(kanidm_link_refusal(p_user, p_session), outcome);
    IF outcome IS NULL THEN
        BEGIN
            UPDATE users x SET kanidm_user_id = p_person, auth_method = 'dual', kanidm_synced_at = p_now,
                    migration_completed_at = coalesce(x.migration_completed_at, p_now)
                WHERE x.user_id = p_user;
            outcome := 'linked';
        EXCEPTION WHEN unique_violation THEN
            outcome := 'person_taken';
        END;
    END IF;
    IF outcome <> 'linked' THEN
        PERFORM audit_record(p_refused || v_who || jsonb_build_object('reason', outcome), p_refused_personal);
    ELSE
        UPDATE sessions x SET auth_method = 'dual', kanidm_session_id = (p_kanidm ->> 'kanidm_session_id')::uuid,
                kanidm_refresh_token = decode(p_kanidm ->> 'kanidm_refresh_token', 'hex'),
                kanidm_checked_at = clock_timestamp()
            WHERE x.session_id = p_session;
        ended := session_end_all(p_user, p_session, 'credential_changed', p_now);
        PERFORM audit_record(p_event || v_who || jsonb_build_object('details', coalesce(p_event -> 'details', '{}')
            || jsonb_build_object('sessions', ended)), p_personal);
        PERFORM session_sync_groups(p_user, p_groups, p_now, p_groups_event || v_who);
        PERFORM audit_record(p_migrated || v_who, NULL);
        PERFORM mail_enqueue(p_notice);
        SELECT u.tokens_valid_from INTO tokens_valid_from FROM users u WHERE u.user_id = p_user;
    END IF;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION kanidm_link_finish(uuid, uuid, uuid, uuid[], jsonb, timestamptz, jsonb, bytea, jsonb, bytea, jsonb, jsonb, jsonb) IS 'Links a person to the user of a session, who proved to be there when the attempt began; from then on both vouch for the session, and the user''s other sessions end.';

CREATE OR REPLACE FUNCTION session_kanidm_renewed(p_session uuid, p_lease uuid, p_kanidm_refresh_token bytea,
    p_groups uuid[], p_now timestamptz, p_event jsonb, OUT ended uuid, OUT tokens_valid_from timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_user uuid;
BEGIN
    SELECT s.user_id INTO v_user FROM sessions s WHERE s.session_id = p_session;
    PERFORM FROM users u WHERE u.user_id = v_user FOR NO KEY UPDATE;
    UPDATE sessions s SET kanidm_refresh_token = p_kanidm_refresh_token, kanidm_renewed = s.kanidm_lease_id = p_lease,
            kanidm_checked_at = clock_timestamp()
        WHERE s.session_id = p_session AND s.status = 'active'
            AND (s.kanidm_lease_id = p_lease OR (s.auth_method = 'dual' AND s.kanidm_check_id = p_lease));
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

CREATE OR REPLACE FUNCTION session_kanidm_released(p_session uuid, p_lease uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    UPDATE sessions SET kanidm_lease_id = NULL, kanidm_lease_until = NULL, kanidm_renewed = false
        WHERE session_id = p_session AND kanidm_lease_id = p_lease;
    PERFORM session_narrow(v_scope);
END
$$;

CREATE FUNCTION session_kanidm_due(p_older_than interval, p_limit integer, p_lease uuid, p_lease_time interval)
    RETURNS TABLE (session_id uuid, kanidm_user_id uuid, kanidm_refresh_token bytea)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_now timestamptz := clock_timestamp();
BEGIN
    -- Whoever is refreshing a session is asking Kanidm about it anyway: those are left out, and so are locked ones.
    RETURN QUERY WITH due AS MATERIALIZED (
        SELECT s.session_id, u.kanidm_user_id FROM sessions s JOIN users u ON u.user_id = s.user_id
        WHERE s.status = 'active' AND s.kanidm_refresh_token IS NOT NULL AND s.kanidm_checked_at <= v_now - p_older_than
            AND coalesce(greatest(s.kanidm_lease_until, s.kanidm_check_until) <= v_now, true)
            AND u.kanidm_user_id IS NOT NULL AND u.auth_method <> 'password' AND u.status = 'active'
            AND u.deleted_at IS NULL
        ORDER BY s.kanidm_checked_at LIMIT p_limit FOR NO KEY UPDATE OF s SKIP LOCKED)
    UPDATE sessions s SET kanidm_lease_id = p_lease, kanidm_lease_until = v_now + p_lease_time, kanidm_renewed = false,
            kanidm_check_id = p_lease, kanidm_check_until = v_now + p_lease_time
        FROM due WHERE s.session_id = due.session_id
        RETURNING s.session_id, due.kanidm_user_id, s.kanidm_refresh_token;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION session_kanidm_due(interval, integer, uuid, interval) IS 'Leases sessions that Kanidm was not asked about for long, the longest first.';

CREATE FUNCTION kanidm_token_user(p_person uuid)
    RETURNS TABLE (user_id uuid, tenant_id uuid, roles text[], permissions text[],
        platform_permissions text[], tokens_valid_from timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    RETURN QUERY SELECT u.user_id, t.tenant_id, r.roles, r.permissions, r.platform_permissions,
            u.tokens_valid_from
        FROM users u, session_tenant(u.user_id, u.tenant_id, NULL) t, session_rights(u.user_id, t.tenant_id) r
        WHERE u.kanidm_user_id = p_person AND u.auth_method <> 'password' AND u.status = 'active'
            AND (u.lock_reason = 'administrator' AND u.locked_until > clock_timestamp()) IS NOT TRUE
            AND u.deleted_at IS NULL AND t.outcome = 'found';
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION kanidm_token_user(uuid) IS 'Whom a person stands for who presents a token of Kanidm''s own, with their rights in the home tenant; nobody where nobody may sign in as the person.';

REVOKE ALL ON FUNCTION kanidm_link_refusal(uuid, uuid),
    kanidm_first_login(uuid, uuid[], jsonb, uuid, timestamptz, jsonb, bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION kanidm_login_begin(jsonb, bytea),
    kanidm_login_take(bytea, bytea, text[], uuid, uuid, timestamptz),
    kanidm_login_finish(uuid, uuid[], jsonb, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb, jsonb, bytea),
    kanidm_link_finish(uuid, uuid, uuid, uuid[], jsonb, timestamptz, jsonb, bytea, jsonb, bytea, jsonb, jsonb, jsonb),
    kanidm_person_refusal(uuid, uuid), kanidm_group_rights(uuid[]),
    session_kanidm_due(interval, integer, uuid, interval), kanidm_token_user(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kanidm_login_begin(jsonb, bytea),
    kanidm_login_take(bytea, bytea, text[], uuid, uuid, timestamptz),
    kanidm_login_finish(uuid, uuid[], jsonb, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb, jsonb, bytea),
    kanidm_link_finish(uuid, uuid, uuid, uuid[], jsonb, timestamptz, jsonb, bytea, jsonb, bytea, jsonb, jsonb, jsonb),
    kanidm_person_refusal(uuid, uuid), kanidm_group_rights(uuid[]),
    session_kanidm_due(interval, integer, uuid, interval), kanidm_token_user(uuid) TO sidle_app;
