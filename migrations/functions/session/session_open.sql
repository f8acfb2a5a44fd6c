CREATE OR REPLACE FUNCTION session_open(p_user uuid, p_tenant uuid, p_auth_method text, p_now timestamptz,
    p_session new_session)
    RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_over uuid[];
    v_ended uuid[] := ARRAY[]::uuid[];
    v_id uuid;
BEGIN
    -- A transaction that begins a session locks the user's row, so the count is right under concurrent logins.
    IF p_session.session_limit > 0 THEN
        v_over := ARRAY(SELECT s.session_id FROM sessions s
            WHERE s.user_id = p_user AND s.status = 'active' AND least(s.expires_at, s.idle_expires_at) > p_now
            ORDER BY s.last_activity_at DESC, s.session_id DESC OFFSET p_session.session_limit - 1);
        FOREACH v_id IN ARRAY v_over LOOP
            IF session_close(v_id, 'session_limit', p_now) THEN
                v_ended := v_ended || v_id;
            END IF;
        END LOOP;
        IF cardinality(v_ended) > 0 THEN
            PERFORM audit_record_with(p_session.limit_event, jsonb_build_object('tenant_id', p_tenant,
                'target_kind', 'user', 'target_id', p_user, 'session_id', p_session.session_id, 'details',
                jsonb_build_object('sessions', to_jsonb(v_ended), 'limit', p_session.session_limit)));
        END IF;
    END IF;
    INSERT INTO sessions (session_id, user_id, tenant_id, auth_method, audience, persistent, access_token_jti,
        refresh_token_jti, refresh_token_hash, kanidm_session_id, kanidm_refresh_token, device_id, device_type,
        device_platform, device_location, device_fingerprint, ip_address, user_agent, created_at, last_activity_at,
        idle_expires_at, expires_at)
    VALUES (p_session.session_id, p_user, p_tenant, p_auth_method, p_session.audience, p_session.persistent,
        p_session.access_token_jti, p_session.refresh_token_id, p_session.refresh_token_hash, p_session.kanidm_session_id,
        p_session.kanidm_refresh_token, p_session.device_id, p_session.device_type, p_session.device_platform,
        p_session.device_location, p_session.device_fingerprint, p_session.ip_address::inet, p_session.user_agent, p_now,
        p_now, p_session.idle_expires_at, p_session.expires_at);
    INSERT INTO refresh_tokens (refresh_token_id, token_family, session_id, token_hash, tenant_id, access_until, created_at,
        expires_at)
    VALUES (p_session.refresh_token_id, p_session.session_id, p_session.session_id, p_session.refresh_token_hash, p_tenant,
        p_session.access_until, p_now, p_session.idle_expires_at);
END
$$;
COMMENT ON FUNCTION session_open(uuid, uuid, text, timestamptz, new_session) IS 'Begins a session with its first refresh token; the sessions beyond the limit that were used longest ago end.';
REVOKE ALL ON FUNCTION session_open(uuid, uuid, text, timestamptz, new_session) FROM PUBLIC;
