CREATE OR REPLACE FUNCTION password_reset_process(p_now timestamptz, p_token jsonb, p_reset jsonb, p_kanidm jsonb, p_most integer,
    p_event jsonb) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_answer text;
    q password_reset_requests%ROWTYPE;
    u users%ROWTYPE;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO q FROM password_reset_requests x ORDER BY x.created_at LIMIT 1 FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            EXIT body;
        END IF;
        DELETE FROM password_reset_requests x WHERE x.request_id = q.request_id;
        IF position('@' IN q.identifier_key) > 0 THEN
            SELECT * INTO u FROM users x WHERE x.email_key = q.identifier_key AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        ELSE
            SELECT * INTO u FROM users x WHERE x.username_key = q.identifier_key AND x.deleted_at IS NULL
                FOR NO KEY UPDATE;
        END IF;
        v_answer := CASE
            WHEN u.user_id IS NULL THEN 'unknown'
            WHEN u.status = 'disabled' THEN 'disabled'
            WHEN u.status <> 'active' OR u.verified_at IS NULL THEN 'unverified'
            WHEN mail_rate_limited(u.email_key, 'password_reset', p_most) THEN 'capped'
            WHEN u.auth_method = 'kanidm' THEN 'kanidm_only'
            ELSE 'sent'
        END;
        IF v_answer = 'kanidm_only' THEN
            PERFORM mail_enqueue(p_kanidm || jsonb_build_object('recipient', u.email,
                    'recipient_key', u.email_key, 'user_id', u.user_id));
        ELSIF v_answer = 'sent' THEN
            PERFORM one_time_issue('password_reset', u.user_id, p_token, p_now);
            PERFORM mail_enqueue(p_reset || jsonb_build_object('recipient', u.email,
                    'recipient_key', u.email_key, 'user_id', u.user_id));
        END IF;
        IF u.user_id IS NOT NULL THEN
            PERFORM audit_record(q.event || jsonb_build_object('tenant_id', u.tenant_id, 'target_kind', 'user',
                'target_id', u.user_id, 'personal_subject', u.user_id), q.personal);
            PERFORM audit_record(p_event || jsonb_build_object('correlation_id', q.correlation_id,
                'tenant_id', u.tenant_id, 'target_kind', 'user', 'target_id', u.user_id,
                'outcome', CASE WHEN v_answer = 'sent' THEN 'success' ELSE 'refused' END,
                'reason', CASE WHEN v_answer <> 'sent' THEN v_answer END), NULL);
        END IF;
    END body;
    PERFORM rls_restore(v_scope);
    RETURN v_answer;
END
$$;
COMMENT ON FUNCTION password_reset_process(timestamptz, jsonb, jsonb, jsonb, integer, jsonb) IS 'Sends what the oldest request for a new password leads to, and says what; null when there is none.';
REVOKE ALL ON FUNCTION password_reset_process(timestamptz, jsonb, jsonb, jsonb, integer, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION password_reset_process(timestamptz, jsonb, jsonb, jsonb, integer, jsonb) TO sidle_app;
