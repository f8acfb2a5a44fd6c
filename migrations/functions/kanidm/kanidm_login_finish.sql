CREATE OR REPLACE FUNCTION kanidm_login_finish(p_kanidm_user uuid, p_groups uuid[], p_about jsonb, p_asked_tenant uuid,
    p_now timestamptz, p_session new_session, p_event prepared_event, p_refused prepared_event, p_groups_changed prepared_event,
    p_migrated prepared_event, p_created prepared_event) RETURNS login_result
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
    v_is_first boolean;
    v_reason text;
    v_tokens_valid_from timestamptz;
    v_result login_result;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.kanidm_user_id = p_kanidm_user AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        IF u.user_id IS NULL THEN
            SELECT * INTO v_first FROM kanidm_first_login(p_kanidm_user, p_groups, p_about, p_asked_tenant, p_now,
                p_created.event, p_created.personal);
            IF v_first.outcome <> 'found' THEN
                PERFORM audit_record_with(p_refused, jsonb_build_object('reason', v_first.outcome));
                v_result.outcome := CASE v_first.outcome WHEN 'tenant_required' THEN 'tenant_required'::login_outcome
                    ELSE 'not_linked' END;
                v_result.choices := v_first.choices;
                EXIT body;
            END IF;
            SELECT * INTO u FROM users x WHERE x.kanidm_user_id = p_kanidm_user AND x.deleted_at IS NULL
                FOR NO KEY UPDATE;
        END IF;
        -- A user who was rolled back to the password keeps the link for the next attempt, but does not come in by it.
        v_reason := CASE
            WHEN u.user_id IS NULL OR u.auth_method = 'password' THEN 'not_linked'
            WHEN u.status <> 'active' THEN 'disabled'
            -- A lock after failures is for those who guess; an administrator's shuts every door.
            WHEN u.locked_until > p_now AND u.lock_reason = 'administrator' THEN 'locked'
        END;
        v_who := jsonb_strip_nulls(jsonb_build_object('target_kind', CASE WHEN u.user_id IS NOT NULL THEN 'user' END,
            'target_id', u.user_id, 'tenant_id', u.tenant_id));
        IF v_reason IS NOT NULL THEN
            PERFORM audit_record_with(p_refused, v_who || jsonb_build_object('reason', v_reason));
            v_result.outcome := CASE v_reason WHEN 'not_linked' THEN 'not_linked'::login_outcome ELSE 'refused' END;
            EXIT body;
        END IF;
        PERFORM session_sync_groups(u.user_id, p_groups, p_now, p_groups_changed.event || v_who);
        SELECT * INTO v_tenant FROM session_tenant(u.user_id, u.tenant_id, p_asked_tenant);
        IF v_tenant.outcome <> 'found' THEN
            PERFORM audit_record_with(p_refused, v_who || jsonb_build_object('reason', v_tenant.outcome));
            v_result.outcome := v_tenant.outcome::login_outcome;
            v_result.choices := v_tenant.choices;
            EXIT body;
        END IF;
        v_is_first := u.migration_completed_at IS NULL;
        UPDATE users x SET last_login_at = p_now, kanidm_synced_at = p_now,
                migration_completed_at = coalesce(x.migration_completed_at, p_now)
            WHERE x.user_id = u.user_id
            RETURNING x.tokens_valid_from INTO v_tokens_valid_from;
        PERFORM session_open(u.user_id, v_tenant.tenant_id, 'kanidm', p_now, p_session);
        UPDATE sessions x SET kanidm_checked_at = clock_timestamp() WHERE x.session_id = p_session.session_id;
        PERFORM audit_record_with(p_event, v_who || jsonb_build_object('tenant_id', v_tenant.tenant_id, 'actor_kind', 'user',
            'actor_id', u.user_id, 'origin_subject', u.user_id, 'personal_subject', u.user_id, 'session_id',
            p_session.session_id, 'details',
            jsonb_build_object('first_kanidm_login', v_is_first)));
        IF v_is_first THEN
            PERFORM audit_record_with(p_migrated, v_who);
        END IF;
        SELECT * INTO v_rights FROM session_rights(u.user_id, v_tenant.tenant_id);
        v_result.outcome := 'signed_in';
        v_result.account := ROW(u.user_id, u.email, u.username, u.full_name, u.auth_method)::login_account;
        -- A seeded password that must change is no matter to somebody who came without it.
        v_result.rights := ROW(v_tenant.tenant_id, v_rights.roles, v_rights.permissions, v_rights.platform_permissions,
            v_tokens_valid_from, false)::user_rights;
    END body;
    PERFORM rls_restore(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION kanidm_login_finish(uuid, uuid[], jsonb, uuid, timestamptz, new_session, prepared_event, prepared_event, prepared_event, prepared_event, prepared_event) IS 'Signs in the user that is linked to a Kanidm person, with memberships as the person''s groups say; makes one at a first login where the tenant wants that.';
REVOKE ALL ON FUNCTION kanidm_login_finish(uuid, uuid[], jsonb, uuid, timestamptz, new_session, prepared_event, prepared_event, prepared_event, prepared_event, prepared_event) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kanidm_login_finish(uuid, uuid[], jsonb, uuid, timestamptz, new_session, prepared_event, prepared_event, prepared_event, prepared_event, prepared_event) TO sidle_app;
