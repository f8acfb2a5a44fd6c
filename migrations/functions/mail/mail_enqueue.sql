CREATE OR REPLACE FUNCTION mail_enqueue(p_mail new_message) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text;
    v_recipient text := nullif(p_mail.recipient, '');
    v_key text := p_mail.recipient_key;
    v_now timestamptz := clock_timestamp();
BEGIN
    -- No mail server, no message.
    IF p_mail.mail_id IS NULL THEN
        RETURN;
    END IF;
    v_scope := rls_enter_platform();
    IF v_recipient IS NULL THEN
        -- The present address: a later change of it does not divert the message.
        SELECT u.email, u.email_key INTO v_recipient, v_key FROM users u
            WHERE u.user_id = p_mail.user_id AND u.deleted_at IS NULL;
    END IF;
    -- Checked here and not by the callers, so that none of them can omit it.
    IF v_recipient IS NOT NULL AND NOT mail_rate_limited(v_key, p_mail.kind, p_mail.per_address_and_hour) THEN
        INSERT INTO mail_outbox (mail_id, kind, user_id, recipient, recipient_hash, parameters, created_at,
            expires_at, next_attempt_at)
        VALUES (p_mail.mail_id, p_mail.kind, p_mail.user_id, v_recipient, sha256(convert_to(v_key, 'UTF8')),
            p_mail.parameters, v_now, v_now + p_mail.lifetime, v_now);
    END IF;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION mail_enqueue(new_message) IS 'Writes a message that the service prepared, to the address it names or else to the user''s present one; nothing for null, and nothing to an address that is at its rate limit.';
REVOKE ALL ON FUNCTION mail_enqueue(new_message) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mail_enqueue(new_message) TO sidle_app;
