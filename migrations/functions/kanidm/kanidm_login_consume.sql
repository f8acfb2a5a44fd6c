-- The secret is in the condition: whoever only saw the state cannot spend somebody else's attempt. So is the session of
-- an attempt that belongs to one.
CREATE OR REPLACE FUNCTION kanidm_login_consume(p_state_hash bytea, p_secret_hash bytea, p_purposes text[], p_user uuid, p_session uuid,
    p_now timestamptz)
    RETURNS TABLE (login_id uuid, nonce_hash bytea, pkce_verifier bytea, redirect_uri text, request jsonb, purpose text,
        live boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    RETURN QUERY DELETE FROM kanidm_logins l WHERE l.state_hash = p_state_hash AND l.secret_hash = p_secret_hash
            AND l.purpose = ANY (p_purposes)
            AND (l.purpose = 'login' OR (l.user_id = p_user AND l.session_id = p_session))
        RETURNING l.login_id, l.nonce_hash, l.pkce_verifier, l.redirect_uri, l.request, l.purpose, l.expires_at > p_now;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION kanidm_login_consume(bytea, bytea, text[], uuid, uuid, timestamptz) IS 'Takes a begun login of these purposes, which can be done once, and only by whom it belongs to.';
REVOKE ALL ON FUNCTION kanidm_login_consume(bytea, bytea, text[], uuid, uuid, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kanidm_login_consume(bytea, bytea, text[], uuid, uuid, timestamptz) TO sidle_app;
