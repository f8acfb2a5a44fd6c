CREATE OR REPLACE FUNCTION kanidm_login_finish(p_kanidm_user uuid, p_groups uuid[], p_about jsonb, p_asked_tenant uuid,
    p_now timestamptz, p_session jsonb, p_event jsonb, p_personal bytea, p_refused jsonb, p_refused_personal bytea,
    p_groups_event jsonb, p_migrated jsonb, p_created jsonb, p_created_personal bytea,
    OUT outcome text, OUT user_id uuid, OUT tenant_id uuid, OUT choices uuid[], OUT roles text[], OUT permissions text[],
    OUT platform_permissions text[], OUT tokens_valid_from timestamptz, OUT must_change_password boolean,
    OUT email text, OUT username text, OUT full_name text, OUT auth_method text, OUT first_login boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
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
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION kanidm_login_finish(uuid, uuid[], jsonb, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb, jsonb, bytea) IS 'Signs in the user that is linked to a Kanidm person, with memberships as the person''s groups say; makes one at a first login where the tenant wants that.';
REVOKE ALL ON FUNCTION kanidm_login_finish(uuid, uuid[], jsonb, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb, jsonb, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kanidm_login_finish(uuid, uuid[], jsonb, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb, jsonb, bytea) TO sidle_app;
