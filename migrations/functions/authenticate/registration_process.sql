-- Only who registered here and has not confirmed yet is sent the way to do so again. An account that is in use under an
-- address that nobody has confirmed is somebody's; whoever has the mailbox must not confirm it for them unknowingly.
CREATE OR REPLACE FUNCTION registration_process(p_now timestamptz, p_token jsonb, p_verify jsonb, p_attempt jsonb, p_most integer)
    RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_answer text;
    v_older uuid;
    r registrations%ROWTYPE;
    u users%ROWTYPE;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO r FROM registrations x WHERE x.state = 'asked' ORDER BY x.created_at LIMIT 1 FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            EXIT body;
        END IF;
        IF r.expires_at <= p_now OR NOT registration_is_open(r.tenant_id)
            OR NOT tenant_accepts_address(r.tenant_id, r.email_key) THEN
            v_answer := 'lapsed';
        ELSE
            -- The user before the count of the address, as a change of the user does.
            SELECT * INTO u FROM users x WHERE x.email_key = r.email_key AND x.deleted_at IS NULL FOR NO KEY UPDATE;
            IF mail_rate_limited(r.email_key, 'verify_email', p_most) THEN
                v_answer := 'capped';
            ELSIF u.user_id IS NULL THEN
                FOR v_older IN
                    SELECT x.registration_id FROM registrations x
                    WHERE x.email_key = r.email_key AND x.tenant_id = r.tenant_id AND x.state = 'sent'
                    ORDER BY x.registration_id FOR UPDATE
                LOOP
                    PERFORM registration_close(v_older, 'superseded');
                END LOOP;
                UPDATE registrations x SET state = 'sent', token_hash = decode(p_token ->> 'token_hash', 'hex')
                    WHERE x.registration_id = r.registration_id;
                PERFORM mail_enqueue(p_verify || jsonb_build_object('recipient', r.email, 'recipient_key', r.email_key));
                v_answer := 'verification_sent';
                EXIT body;
            ELSIF u.status = 'pending_verification' THEN
                -- Somebody whose address nobody has confirmed yet gets the way to do so.
                PERFORM one_time_issue('verify_email', u.user_id, p_token, p_now);
                PERFORM mail_enqueue(p_verify || jsonb_build_object('recipient', u.email,
                    'recipient_key', u.email_key, 'user_id', u.user_id));
                v_answer := 'verification_repeated';
            ELSE
                PERFORM mail_enqueue(p_attempt || jsonb_build_object('recipient', u.email,
                    'recipient_key', u.email_key, 'user_id', u.user_id));
                v_answer := 'owner_told';
            END IF;
        END IF;
        PERFORM registration_close(r.registration_id, 'dropped');
    END body;
    PERFORM rls_restore(v_scope);
    RETURN v_answer;
END
$$;
COMMENT ON FUNCTION registration_process(timestamptz, jsonb, jsonb, jsonb, integer) IS 'Sends what the oldest registration without an answer leads to, and says what; null when there is none.';
REVOKE ALL ON FUNCTION registration_process(timestamptz, jsonb, jsonb, jsonb, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registration_process(timestamptz, jsonb, jsonb, jsonb, integer) TO sidle_app;
