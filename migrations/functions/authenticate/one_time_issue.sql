CREATE OR REPLACE FUNCTION one_time_issue(p_purpose text, p_user uuid, p_token jsonb, p_now timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    -- A newer token of the same purpose is the only one.
    DELETE FROM one_time_tokens t WHERE t.user_id = p_user AND t.purpose = p_purpose AND t.used_at IS NULL;
    INSERT INTO one_time_tokens (token_id, purpose, token_hash, user_id, email_key, created_at, expires_at)
    SELECT (p_token ->> 'token_id')::uuid, p_purpose, decode(p_token ->> 'token_hash', 'hex'), u.user_id, u.email_key, p_now,
        (p_token ->> 'expires_at')::timestamptz
    FROM users u WHERE u.user_id = p_user;
END
$$;
COMMENT ON FUNCTION one_time_issue(text, uuid, jsonb, timestamptz) IS 'Makes a token for the address that a user has now; older ones of the purpose are worth nothing.';
REVOKE ALL ON FUNCTION one_time_issue(text, uuid, jsonb, timestamptz) FROM PUBLIC;
