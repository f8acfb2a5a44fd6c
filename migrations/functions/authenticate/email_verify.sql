CREATE OR REPLACE FUNCTION email_verify(p_token_hash bytea, p_secret_hash bytea, p_now timestamptz, p_user jsonb, p_event jsonb,
    p_personal bytea, p_created jsonb, p_created_personal bytea, p_removed jsonb, p_notice jsonb,
    OUT outcome text, OUT user_id uuid, OUT verified_at timestamptz, OUT password_kept boolean, OUT sessions uuid[],
    OUT tokens_valid_from timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    -- An import in progress may be writing the same address; it may take minutes.
    SET lock_timeout = '2s'
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_other uuid;
    v_first boolean;
    v_key text;
    v_had_factor boolean := false;
    r registrations%ROWTYPE;
    t one_time_tokens%ROWTYPE;
    u users%ROWTYPE;
BEGIN
    outcome := 'refused';
    sessions := '{}';
    <<body>>
    BEGIN
        SELECT x.email_key INTO v_key FROM registrations x WHERE x.token_hash = p_token_hash;
        IF FOUND THEN
            -- All of the address at once and in one order: each of two calls for it would otherwise hold its own and wait
            -- for the other's. A registration that has ended has no address any more, and is only itself.
            PERFORM FROM registrations x WHERE x.token_hash = p_token_hash OR (x.email_key = v_key AND x.state = 'sent')
                ORDER BY x.registration_id FOR UPDATE;
            SELECT * INTO r FROM registrations x WHERE x.token_hash = p_token_hash;
            IF r.state = 'verified' AND r.expires_at > p_now THEN
                outcome := 'repeated';
                user_id := r.user_id;
                verified_at := r.verified_at;
                password_kept := r.password_kept;
                EXIT body;
            END IF;
            IF r.state <> 'sent' OR r.expires_at <= p_now OR NOT registration_is_open(r.tenant_id)
                OR NOT tenant_accepts_address(r.tenant_id, r.email_key) THEN
                EXIT body;
            END IF;
            -- The token shows who has the mailbox, not who chose the password: that is shown by the secret, which only
            -- the client got that registered. Without it the password may be that of somebody who registered the
            -- address of somebody else, and goes.
            password_kept := coalesce(r.secret_hash = p_secret_hash, false);
            user_id := (p_user ->> 'user_id')::uuid;
            verified_at := p_now;
            BEGIN
                INSERT INTO users (user_id, tenant_id, email, email_key, username, username_key, full_name, status,
                    password_hash, password_cost, password_pepper_id, password_changed_at, verified_at, created_at,
                    updated_at)
                SELECT email_verify.user_id, r.tenant_id, r.email, r.email_key,
                    CASE WHEN NOT taken.name THEN r.username END, CASE WHEN NOT taken.name THEN r.username_key END,
                    r.full_name, 'active',
                    CASE WHEN email_verify.password_kept THEN r.password_hash END,
                    CASE WHEN email_verify.password_kept THEN r.password_cost END,
                    CASE WHEN email_verify.password_kept THEN r.password_pepper_id END,
                    CASE WHEN email_verify.password_kept THEN p_now END, p_now, p_now, p_now
                FROM (SELECT EXISTS (SELECT FROM users x WHERE x.username_key = r.username_key
                    AND x.deleted_at IS NULL) AS name) taken;
            EXCEPTION WHEN unique_violation THEN
                -- The address has an account by now.
                user_id := NULL;
                verified_at := NULL;
                EXIT body;
            END;
            INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source, created_at)
            VALUES ((p_user ->> 'membership_id')::uuid, r.tenant_id, email_verify.user_id,
                '00000000-0000-7000-8000-000000000004', 'local', p_now);
            v_key := r.email_key;
            PERFORM registration_close(r.registration_id, 'superseded');
            UPDATE registrations x SET state = 'verified', user_id = email_verify.user_id, verified_at = p_now,
                password_kept = email_verify.password_kept WHERE x.registration_id = r.registration_id;
            FOR v_other IN
                -- One that has been sent since is left to itself: the address has an account by then.
                SELECT x.registration_id FROM registrations x WHERE x.email_key = v_key AND x.state = 'sent'
                ORDER BY x.registration_id FOR UPDATE SKIP LOCKED
            LOOP
                PERFORM registration_close(v_other, 'superseded');
            END LOOP;
            PERFORM audit_record(p_created || jsonb_build_object('actor_kind', 'user', 'actor_id', user_id,
                'tenant_id', r.tenant_id, 'target_kind', 'user', 'target_id', user_id,
                'personal_subject', user_id,
                'details', jsonb_build_object('password_kept', password_kept)), p_created_personal);
            outcome := 'verified';
            EXIT body;
        END IF;

        -- The user before what is the user's, as everywhere.
        SELECT x.user_id INTO v_other FROM one_time_tokens x WHERE x.token_hash = p_token_hash AND x.purpose = 'verify_email';
        SELECT * INTO u FROM users x WHERE x.user_id = v_other AND x.deleted_at IS NULL FOR UPDATE;
        SELECT * INTO t FROM one_time_tokens x WHERE x.token_hash = p_token_hash AND x.purpose = 'verify_email' FOR UPDATE;
        IF u.user_id IS NULL OR t.token_id IS NULL OR t.expires_at <= p_now OR t.email_key <> u.email_key
            OR u.status = 'disabled' OR (t.used_at IS NOT NULL AND u.verified_at IS NULL) THEN
            EXIT body;
        END IF;
        user_id := u.user_id;
        IF t.used_at IS NOT NULL OR u.verified_at IS NOT NULL THEN
            outcome := 'repeated';
            verified_at := u.verified_at;
            password_kept := u.password_hash IS NOT NULL;
            EXIT body;
        END IF;
        verified_at := p_now;
        v_first := u.status = 'pending_verification';
        password_kept := NOT v_first AND u.password_hash IS NOT NULL;
        UPDATE users x SET verified_at = p_now, status = 'active' WHERE x.user_id = u.user_id;
        UPDATE one_time_tokens x SET used_at = p_now WHERE x.token_id = t.token_id;
        IF v_first THEN
            -- Whatever was set before this, somebody set who had not shown that the address is theirs.
            UPDATE users x SET password_hash = NULL, password_cost = NULL, password_pepper_id = NULL,
                    password_changed_at = NULL, must_change_password = false
                WHERE x.user_id = u.user_id;
            tokens_valid_from := tokens_revoke(ARRAY[u.user_id], NULL);
            v_had_factor := factors_remove(u.user_id);
            sessions := session_end_all(u.user_id, NULL, 'credential_changed', p_now);
            -- What somebody had, they are told that they have it no more.
            IF u.password_hash IS NOT NULL OR v_had_factor THEN
                PERFORM audit_record(p_removed || jsonb_build_object('actor_kind', 'user', 'actor_id', user_id,
                    'tenant_id', u.tenant_id, 'target_kind', 'user', 'target_id', user_id, 'details', jsonb_build_object(
                        'password', u.password_hash IS NOT NULL, 'second_factor', v_had_factor)), NULL);
                PERFORM mail_enqueue(p_notice || jsonb_build_object('user_id', user_id));
            END IF;
        END IF;
        PERFORM audit_record(p_event || jsonb_build_object('actor_kind', 'user', 'actor_id', user_id,
            'tenant_id', u.tenant_id, 'target_kind', 'user', 'target_id', user_id, 'personal_subject', user_id,
            'details', jsonb_build_object('first', v_first, 'password_kept', password_kept)
                || CASE WHEN v_first THEN jsonb_build_object('sessions', to_jsonb(sessions),
                    'principals', jsonb_build_array(user_id),
                    'tokens_valid_from', (extract(epoch FROM tokens_valid_from) * 1000000)::bigint) ELSE '{}' END), p_personal);
        outcome := 'verified';
    END body;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION email_verify(bytea, bytea, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb) IS 'Takes a token as the proof that an address is its user''s: a registration becomes a user; for a user it is the first time for, everything set before goes.';
REVOKE ALL ON FUNCTION email_verify(bytea, bytea, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION email_verify(bytea, bytea, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb) TO sidle_app;
