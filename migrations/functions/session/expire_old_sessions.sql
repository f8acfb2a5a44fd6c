CREATE OR REPLACE FUNCTION expire_old_sessions(p_now timestamptz, p_keep interval) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_expired bigint;
BEGIN
    WITH lapsed AS (
        SELECT s.session_id FROM sessions s WHERE s.status = 'active' AND s.expires_at <= p_now
        UNION
        SELECT t.session_id FROM refresh_tokens t JOIN sessions s ON s.session_id = t.session_id
        WHERE t.expires_at <= p_now AND t.used_at IS NULL AND s.status = 'active'
        LIMIT 10000
    ), locked AS (
        SELECT s.session_id FROM sessions s JOIN lapsed USING (session_id) WHERE s.status = 'active'
        ORDER BY s.session_id FOR NO KEY UPDATE OF s SKIP LOCKED
    )
    UPDATE sessions s SET status = 'expired', kanidm_refresh_token = NULL FROM locked
        WHERE s.session_id = locked.session_id;
    GET DIAGNOSTICS v_expired = ROW_COUNT;
    -- Until it has expired a used token can reveal a theft; after that it is refused anyway.
    DELETE FROM refresh_tokens WHERE refresh_token_id IN (
        SELECT t.refresh_token_id FROM refresh_tokens t WHERE t.expires_at <= p_now - interval '1 day' LIMIT 10000);
    -- Ended sessions are listed for a while; their refresh tokens are deleted with them.
    DELETE FROM sessions WHERE session_id IN (
        SELECT s.session_id FROM sessions s
        WHERE (s.status = 'expired' AND s.expires_at <= p_now - p_keep) OR s.revoked_at <= p_now - p_keep
        LIMIT 10000 FOR UPDATE SKIP LOCKED);
    DELETE FROM kanidm_logins WHERE expires_at <= p_now;
    DELETE FROM request_answers WHERE (principal_id, method, request_id) IN (
        SELECT r.principal_id, r.method, r.request_id FROM request_answers r
        WHERE r.created_at <= p_now - interval '24 hours' LIMIT 10000);
    PERFORM rls_restore(v_scope);
    RETURN v_expired;
END
$$;
COMMENT ON FUNCTION expire_old_sessions(timestamptz, interval) IS 'Marks expired sessions; purges those that ended longer ago than they are kept, expired refresh tokens, lapsed logins and answers to repeated calls: at most 10,000 of each. Returns how many sessions it marked.';
REVOKE ALL ON FUNCTION expire_old_sessions(timestamptz, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION expire_old_sessions(timestamptz, interval) TO sidle_app;
