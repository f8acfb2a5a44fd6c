CREATE OR REPLACE FUNCTION email_verification_request(p_user uuid, p_token jsonb, p_now timestamptz, p_mail jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    -- To an address that has had its share nothing goes, and the token that it has got already stays good.
    IF p_mail IS NOT NULL AND EXISTS (SELECT FROM users u WHERE u.user_id = p_user AND u.deleted_at IS NULL
            AND (v_scope = 'on' OR u.tenant_id = sidle_tenant())
            AND NOT mail_rate_limited(u.email_key, 'verify_email', (p_mail ->> 'per_address_and_hour')::integer)) THEN
        PERFORM one_time_issue('verify_email', p_user, p_token, p_now);
        PERFORM mail_enqueue(p_mail || jsonb_build_object('user_id', p_user));
    END IF;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION email_verification_request(uuid, jsonb, timestamptz, jsonb) IS 'Sends a user the way to confirm the address they have now. In a tenant''s transaction only to its own users.';
REVOKE ALL ON FUNCTION email_verification_request(uuid, jsonb, timestamptz, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION email_verification_request(uuid, jsonb, timestamptz, jsonb) TO sidle_app;
