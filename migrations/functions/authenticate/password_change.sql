CREATE OR REPLACE FUNCTION password_change(p_user uuid, p_session uuid, p_password jsonb, p_tokens jsonb, p_now timestamptz,
    p_idle interval, p_persistent_idle interval, p_event jsonb, p_personal bytea,
    OUT outcome text, OUT tenant_id uuid, OUT audience text, OUT roles text[], OUT permissions text[],
    OUT platform_permissions text[], OUT expires_at timestamptz, OUT refresh_expires_at timestamptz,
    OUT ended_sessions uuid[], OUT tokens_valid_from timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    s sessions%ROWTYPE;
    v_rights record;
    v_hash bytea := decode(p_tokens ->> 'refresh_token_hash', 'hex');
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO s FROM sessions x WHERE x.session_id = p_session AND x.user_id = p_user FOR NO KEY UPDATE;
        IF s.status IS DISTINCT FROM 'active' OR s.expires_at <= p_now THEN
            outcome := 'session_ended';
            EXIT body;
        END IF;
        UPDATE users u SET password_hash = p_password ->> 'hash', password_cost = (p_password ->> 'cost')::smallint,
                password_pepper_id = (p_password ->> 'pepper_id')::smallint, password_changed_at = p_now,
                must_change_password = false
            WHERE u.user_id = p_user;
        tokens_valid_from := tokens_revoke(ARRAY[p_user], NULL);
        ended_sessions := session_end_all(p_user, p_session, 'credential_changed', p_now);
        -- The session goes on with tokens that nobody has seen yet: whoever has a copy of the old ones is out.
        refresh_expires_at := least(p_now + CASE WHEN s.persistent THEN p_persistent_idle ELSE p_idle END, s.expires_at);
        UPDATE refresh_tokens t SET revoked_at = p_now
            WHERE t.token_family = p_session AND t.used_at IS NULL AND t.revoked_at IS NULL;
        INSERT INTO refresh_tokens (refresh_token_id, token_family, session_id, token_hash, tenant_id, access_until,
                created_at, expires_at)
            VALUES ((p_tokens ->> 'refresh_token_id')::uuid, p_session, p_session, v_hash, s.tenant_id,
                (p_tokens ->> 'access_until')::timestamptz, p_now, refresh_expires_at);
        UPDATE sessions x SET last_activity_at = p_now, idle_expires_at = refresh_expires_at,
                refresh_token_jti = (p_tokens ->> 'refresh_token_id')::uuid, refresh_token_hash = v_hash,
                access_token_jti = (p_tokens ->> 'access_token_jti')::uuid
            WHERE x.session_id = p_session;
        PERFORM audit_record(p_event || jsonb_build_object('details', coalesce(p_event -> 'details', '{}')
            || jsonb_build_object('sessions', ended_sessions,
                'tokens_valid_from', (extract(epoch FROM tokens_valid_from) * 1000000)::bigint)), p_personal);
        SELECT * INTO v_rights FROM session_rights(p_user, s.tenant_id);
        outcome := 'changed';
        tenant_id := s.tenant_id;
        audience := s.audience;
        roles := v_rights.roles;
        permissions := v_rights.permissions;
        platform_permissions := v_rights.platform_permissions;
        expires_at := s.expires_at;
    END body;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION password_change(uuid, uuid, jsonb, jsonb, timestamptz, interval, interval, jsonb, bytea) IS 'Sets a password from within a session of the user, whose row the caller has locked: every other session ends, this one gets new tokens.';
REVOKE ALL ON FUNCTION password_change(uuid, uuid, jsonb, jsonb, timestamptz, interval, interval, jsonb, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION password_change(uuid, uuid, jsonb, jsonb, timestamptz, interval, interval, jsonb, bytea) TO sidle_app;
