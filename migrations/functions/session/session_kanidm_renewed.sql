CREATE OR REPLACE FUNCTION session_kanidm_renewed(p_session uuid, p_lease uuid, p_kanidm_refresh_token bytea,
    p_groups uuid[], p_now timestamptz, p_event prepared_event, OUT ended uuid, OUT tokens_valid_from timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_user uuid;
BEGIN
    SELECT s.user_id INTO v_user FROM sessions s WHERE s.session_id = p_session;
    PERFORM FROM users u WHERE u.user_id = v_user FOR NO KEY UPDATE;
    UPDATE sessions s SET kanidm_refresh_token = p_kanidm_refresh_token, kanidm_renewed = s.kanidm_lease_id = p_lease,
            kanidm_checked_at = clock_timestamp()
        WHERE s.session_id = p_session AND s.status = 'active'
            AND (s.kanidm_lease_id = p_lease OR (s.auth_method = 'dual' AND s.kanidm_check_id = p_lease));
    IF FOUND THEN
        p_event.event := p_event.event
            || jsonb_build_object('target_kind', 'user', 'target_id', v_user, 'session_id', p_session);
        IF session_sync_groups(v_user, p_groups, p_now, p_event) THEN
            ended := v_user;
            SELECT u.tokens_valid_from INTO tokens_valid_from FROM users u WHERE u.user_id = v_user;
        END IF;
        UPDATE users u SET kanidm_synced_at = p_now WHERE u.user_id = v_user;
    END IF;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION session_kanidm_renewed(uuid, uuid, bytea, uuid[], timestamptz, prepared_event) IS 'Stores the result of renewing a session at Kanidm: the next refresh token and the groups. Returns the user when that revoked their access tokens, with the epoch.';
REVOKE ALL ON FUNCTION session_kanidm_renewed(uuid, uuid, bytea, uuid[], timestamptz, prepared_event) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session_kanidm_renewed(uuid, uuid, bytea, uuid[], timestamptz, prepared_event) TO sidle_app;
