-- No tenant sees tokens or counts of messages, so a tenant's administrators use this function.
CREATE OR REPLACE FUNCTION email_verification_request(p_user uuid, p_token_id uuid, p_token_hash bytea,
    p_token_until timestamptz, p_now timestamptz, p_mail new_message) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    -- An address at its rate limit gets no message, and the token that it has already got stays valid.
    IF p_mail.mail_id IS NOT NULL AND EXISTS (SELECT FROM users u WHERE u.user_id = p_user AND u.deleted_at IS NULL
            AND (v_scope = 'on' OR u.tenant_id = sidle_tenant())
            AND NOT mail_rate_limited(u.email_key, 'verify_email', p_mail.per_address_and_hour)) THEN
        -- Voids older tokens of the same purpose.
        DELETE FROM one_time_tokens t WHERE t.user_id = p_user AND t.purpose = 'verify_email' AND t.used_at IS NULL;
        INSERT INTO one_time_tokens (token_id, purpose, token_hash, user_id, email_key, created_at, expires_at)
        SELECT p_token_id, 'verify_email', p_token_hash, u.user_id, u.email_key, p_now, p_token_until
        FROM users u WHERE u.user_id = p_user;
        p_mail.user_id := p_user;
        PERFORM mail_enqueue(p_mail);
    END IF;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION email_verification_request(uuid, uuid, bytea, timestamptz, timestamptz, new_message) IS 'Sends a user a token to verify their present address. In a tenant''s transaction only to the tenant''s own users.';
REVOKE ALL ON FUNCTION email_verification_request(uuid, uuid, bytea, timestamptz, timestamptz, new_message) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION email_verification_request(uuid, uuid, bytea, timestamptz, timestamptz, new_message) TO sidle_app;
