-- Whether a token or the revocation that is to end it came first is decided by the principal's row: a token names the
-- revocation that it found there, and a transaction that issues one locks the row until the rights are read. So each
-- revocation must differ from those before it and be later than them, whatever the clocks of replicas say.
CREATE OR REPLACE FUNCTION tokens_revoke(p_users uuid[], p_accounts uuid[]) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_at timestamptz;
BEGIN
    PERFORM FROM users u WHERE u.user_id = ANY (p_users) ORDER BY u.user_id FOR NO KEY UPDATE;
    PERFORM FROM service_accounts a WHERE a.service_account_id = ANY (p_accounts) ORDER BY a.service_account_id
        FOR NO KEY UPDATE;
    -- The time is read after the locks are taken. A clock that was set back, as after a fail-over, must not make it an
    -- earlier one.
    SELECT greatest(clock_timestamp(), max(x.tokens_valid_from) + interval '1 microsecond') INTO v_at
        FROM (SELECT u.tokens_valid_from FROM users u WHERE u.user_id = ANY (p_users)
            UNION ALL
            SELECT a.tokens_valid_from FROM service_accounts a WHERE a.service_account_id = ANY (p_accounts)) x;
    UPDATE users u SET tokens_valid_from = v_at WHERE u.user_id = ANY (p_users);
    UPDATE service_accounts a SET tokens_valid_from = v_at WHERE a.service_account_id = ANY (p_accounts);
    RETURN v_at;
END
$$;
COMMENT ON FUNCTION tokens_revoke(uuid[], uuid[]) IS 'Revokes every access token that these users and service accounts have, within the transaction''s scope, and returns the epoch: the time that its event states and that tokens issued from now on name.';
REVOKE ALL ON FUNCTION tokens_revoke(uuid[], uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tokens_revoke(uuid[], uuid[]) TO sidle_app;
