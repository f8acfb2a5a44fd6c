CREATE OR REPLACE FUNCTION kanidm_link_finish(p_user uuid, p_session uuid, p_person uuid, p_groups uuid[], p_kanidm jsonb,
    p_now timestamptz, p_event jsonb, p_personal bytea, p_refused jsonb,
    p_refused_personal bytea, p_groups_event jsonb, p_migrated jsonb, p_notice jsonb, OUT outcome text, OUT ended uuid[],
    OUT tokens_valid_from timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
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
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION kanidm_link_finish(uuid, uuid, uuid, uuid[], jsonb, timestamptz, jsonb, bytea, jsonb, bytea, jsonb, jsonb, jsonb) IS 'Links a person to the user of a session, who proved to be there when the attempt began; from then on both vouch for the session, and the user''s other sessions end.';
REVOKE ALL ON FUNCTION kanidm_link_finish(uuid, uuid, uuid, uuid[], jsonb, timestamptz, jsonb, bytea, jsonb, bytea, jsonb, jsonb, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kanidm_link_finish(uuid, uuid, uuid, uuid[], jsonb, timestamptz, jsonb, bytea, jsonb, bytea, jsonb, jsonb, jsonb) TO sidle_app;
