CREATE OR REPLACE FUNCTION step_up_consume(p_token_hash bytea, p_user uuid, p_session uuid, p_method text, p_target text,
    p_change bytea, p_now timestamptz, OUT factor text, OUT ways text[])
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    -- All that the step-up token is bound to is in the condition: a call that does not match does not use it up. Of two
    -- concurrent calls the second waits for the first, and finds nothing once that is committed.
    DELETE FROM step_up_tokens t
        WHERE t.token_hash = p_token_hash AND t.user_id = p_user AND t.session_id = p_session AND t.method = p_method
            AND t.target = p_target AND t.change = p_change AND t.expires_at > p_now
            AND EXISTS (SELECT FROM sessions s
                WHERE s.session_id = t.session_id AND s.status = 'active' AND s.expires_at > p_now)
        RETURNING t.factor INTO factor;
    IF factor IS NULL THEN
        ways := step_up_methods(p_user);
    END IF;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION step_up_consume(bytea, uuid, uuid, text, text, bytea, timestamptz) IS 'Consumes the step-up token for a sensitive call, in the transaction of the call; without one returns how the user can get it.';
REVOKE ALL ON FUNCTION step_up_consume(bytea, uuid, uuid, text, text, bytea, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION step_up_consume(bytea, uuid, uuid, text, text, bytea, timestamptz) TO sidle_app;
