CREATE OR REPLACE FUNCTION session_close(p_session uuid, p_reason text, p_now timestamptz) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    UPDATE sessions SET status = 'revoked', revoked_at = p_now, revoke_reason = p_reason, kanidm_refresh_token = NULL
        WHERE session_id = p_session AND status = 'active';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE refresh_tokens SET revoked_at = p_now
        WHERE token_family = p_session AND used_at IS NULL AND revoked_at IS NULL;
    RETURN true;
END
$$;
COMMENT ON FUNCTION session_close(uuid, text, timestamptz) IS 'Ends a session with its refresh token family; false when it had ended before.';
REVOKE ALL ON FUNCTION session_close(uuid, text, timestamptz) FROM PUBLIC;
