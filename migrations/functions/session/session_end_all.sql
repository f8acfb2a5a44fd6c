CREATE OR REPLACE FUNCTION session_end_all(p_user uuid, p_except uuid, p_reason text, p_now timestamptz) RETURNS uuid[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_session uuid;
    v_ended uuid[] := ARRAY[]::uuid[];
BEGIN
    -- Locked before anything of theirs, as by everything that begins or ends sessions of a user: a login in progress is
    -- waited for and then found, and a concurrent change of the password comes before this or after it.
    PERFORM FROM users u WHERE u.user_id = p_user FOR NO KEY UPDATE;
    FOR v_session IN
        SELECT s.session_id FROM sessions s JOIN users u ON u.user_id = s.user_id
        WHERE s.user_id = p_user AND s.status = 'active' AND s.session_id IS DISTINCT FROM p_except
            AND (v_scope = 'on' OR s.tenant_id = sidle_tenant() OR u.tenant_id = sidle_tenant()
                -- A session that was moved to another tenant also belongs to this one while it holds tokens for it.
                OR EXISTS (SELECT FROM refresh_tokens t WHERE t.session_id = s.session_id
                    AND t.tenant_id = sidle_tenant() AND t.access_until > p_now))
        ORDER BY s.session_id
        FOR NO KEY UPDATE OF s
    LOOP
        IF session_close(v_session, p_reason, p_now) THEN
            v_ended := v_ended || v_session;
        END IF;
    END LOOP;
    -- Signing out everywhere also voids pending logins and proofs.
    IF v_scope = 'on' OR EXISTS (SELECT FROM users u WHERE u.user_id = p_user AND u.tenant_id = sidle_tenant()) THEN
        PERFORM pending_void(p_user);
    END IF;
    PERFORM rls_restore(v_scope);
    RETURN v_ended;
END
$$;
COMMENT ON FUNCTION session_end_all(uuid, uuid, text, timestamptz) IS 'Ends the sessions of a user, except one, and voids what waits to become one; returns which sessions, and the caller records it. In a tenant''s transaction only sessions that act in that tenant or still hold tokens for it, or everything of its own users.';
REVOKE ALL ON FUNCTION session_end_all(uuid, uuid, text, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session_end_all(uuid, uuid, text, timestamptz) TO sidle_app;
