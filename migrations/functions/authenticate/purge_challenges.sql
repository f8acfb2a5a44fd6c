CREATE OR REPLACE FUNCTION purge_challenges(p_now timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    DELETE FROM step_up_tokens WHERE step_up_token_id IN (
        SELECT t.step_up_token_id FROM step_up_tokens t WHERE t.expires_at <= p_now LIMIT 10000 FOR UPDATE SKIP LOCKED);
    DELETE FROM mfa_challenges WHERE challenge_id IN (
        SELECT c.challenge_id FROM mfa_challenges c WHERE c.expires_at <= p_now LIMIT 10000 FOR UPDATE SKIP LOCKED);
    DELETE FROM user_totp WHERE user_id IN (
        SELECT t.user_id FROM user_totp t WHERE t.confirmed_at IS NULL AND t.expires_at <= p_now
        LIMIT 10000 FOR UPDATE SKIP LOCKED);
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION purge_challenges(timestamptz) IS 'Removes what has lapsed of proofs, unfinished logins and unfinished enrolments, at most 10,000 of each.';
REVOKE ALL ON FUNCTION purge_challenges(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION purge_challenges(timestamptz) TO sidle_app;
