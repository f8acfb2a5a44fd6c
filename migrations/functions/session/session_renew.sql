-- Sessions change through functions only. This one opens no scope: it works in the platform's transactions and in no others.
CREATE OR REPLACE FUNCTION session_renew(p_user uuid, p_session uuid, p_refresh_token_id uuid, p_refresh_token_hash bytea,
    p_access_token_jti uuid, p_access_until timestamptz, p_now timestamptz, p_idle interval, p_persistent_idle interval,
    OUT renewed boolean, OUT tenant_id uuid, OUT audience text, OUT roles text[], OUT permissions text[],
    OUT platform_permissions text[], OUT expires_at timestamptz, OUT refresh_expires_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    s sessions%ROWTYPE;
    v_rights record;
BEGIN
    IF NOT sidle_platform() THEN
        RAISE EXCEPTION 'sessions are renewed in the scope of the platform' USING ERRCODE = 'insufficient_privilege';
    END IF;
    SELECT * INTO s FROM sessions x WHERE x.session_id = p_session AND x.user_id = p_user FOR NO KEY UPDATE;
    renewed := coalesce(s.status = 'active' AND s.expires_at > p_now, false);
    IF renewed THEN
        refresh_expires_at := least(p_now + CASE WHEN s.persistent THEN p_persistent_idle ELSE p_idle END, s.expires_at);
        UPDATE refresh_tokens t SET revoked_at = p_now
            WHERE t.token_family = p_session AND t.used_at IS NULL AND t.revoked_at IS NULL;
        INSERT INTO refresh_tokens (refresh_token_id, token_family, session_id, token_hash, tenant_id, access_until,
                created_at, expires_at)
            VALUES (p_refresh_token_id, p_session, p_session, p_refresh_token_hash, s.tenant_id, p_access_until, p_now,
                session_renew.refresh_expires_at);
        UPDATE sessions x SET last_activity_at = p_now, idle_expires_at = session_renew.refresh_expires_at,
                refresh_token_jti = p_refresh_token_id, refresh_token_hash = p_refresh_token_hash,
                access_token_jti = p_access_token_jti
            WHERE x.session_id = p_session;
        SELECT * INTO v_rights FROM session_rights(p_user, s.tenant_id);
        tenant_id := s.tenant_id;
        audience := s.audience;
        roles := v_rights.roles;
        permissions := v_rights.permissions;
        platform_permissions := v_rights.platform_permissions;
        expires_at := s.expires_at;
    END IF;
END
$$;
COMMENT ON FUNCTION session_renew(uuid, uuid, uuid, bytea, uuid, timestamptz, timestamptz, interval, interval) IS 'Gives a session of a user, whose row the caller has locked, new tokens that replace all that it had, and returns what the user may do in it; none for one that has ended.';
REVOKE ALL ON FUNCTION session_renew(uuid, uuid, uuid, bytea, uuid, timestamptz, timestamptz, interval, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session_renew(uuid, uuid, uuid, bytea, uuid, timestamptz, timestamptz, interval, interval) TO sidle_app;
