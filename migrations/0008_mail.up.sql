-- Mail: the outbox. A message is a row that is written in the transaction of the change it tells of, so that there is
-- no message without the change and no change without its message. Times here are the database's own, which all replicas
-- share.

CREATE TABLE mail_outbox (
    mail_id         uuid PRIMARY KEY,
    kind            text NOT NULL,
    state           text NOT NULL DEFAULT 'waiting',
    user_id         uuid REFERENCES users ON DELETE CASCADE,
    recipient       text,
    recipient_hash  bytea NOT NULL,
    parameters      bytea,
    created_at      timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    next_attempt_at timestamptz NOT NULL,
    attempts        integer NOT NULL DEFAULT 0,
    lease_id        uuid,
    lease_until     timestamptz,
    begun_at        timestamptz,
    failure         text,
    finished_at     timestamptz,
    CONSTRAINT mail_outbox_state_check CHECK (state IN ('waiting', 'sent', 'failed', 'expired')),
    CONSTRAINT mail_outbox_finished_check CHECK ((state = 'waiting') = (finished_at IS NULL)),
    -- Once nothing more is to be done, neither the address nor what the message said is kept.
    CONSTRAINT mail_outbox_personal_check CHECK (
        (finished_at IS NULL AND recipient IS NOT NULL) OR (recipient IS NULL AND parameters IS NULL)),
    CONSTRAINT mail_outbox_recipient_hash_check CHECK (octet_length(recipient_hash) = 32)
);
CREATE INDEX idx_mail_outbox_due ON mail_outbox (next_attempt_at) WHERE finished_at IS NULL;
CREATE INDEX idx_mail_outbox_recipient ON mail_outbox (recipient_hash, created_at);
CREATE INDEX idx_mail_outbox_user ON mail_outbox (user_id);
CREATE INDEX idx_mail_outbox_finished_at ON mail_outbox (finished_at) WHERE finished_at IS NOT NULL;
COMMENT ON TABLE mail_outbox IS 'Messages to send, and for a day those that were sent or given up.';
COMMENT ON COLUMN mail_outbox.mail_id IS 'UUIDv7 of the message, and the left part of its Message-ID, the same at every attempt.';
COMMENT ON COLUMN mail_outbox.kind IS 'Which template it is made from.';
COMMENT ON COLUMN mail_outbox.state IS 'waiting, sent, failed (refused for good) or expired (given up).';
COMMENT ON COLUMN mail_outbox.user_id IS 'The user it is about; null when there is none.';
COMMENT ON COLUMN mail_outbox.recipient IS 'Address it goes to; null once nothing more is to be done.';
COMMENT ON COLUMN mail_outbox.recipient_hash IS 'SHA-256 of the address''s key, by which messages to one address are counted.';
COMMENT ON COLUMN mail_outbox.parameters IS 'What the template is filled with, sealed; null once nothing more is to be done.';
COMMENT ON COLUMN mail_outbox.created_at IS 'When it was written.';
COMMENT ON COLUMN mail_outbox.expires_at IS 'When it is given up.';
COMMENT ON COLUMN mail_outbox.next_attempt_at IS 'When it is to be tried next.';
COMMENT ON COLUMN mail_outbox.attempts IS 'How often it was handed to the mail server.';
COMMENT ON COLUMN mail_outbox.lease_id IS 'Who is sending it.';
COMMENT ON COLUMN mail_outbox.lease_until IS 'When another may take it over.';
COMMENT ON COLUMN mail_outbox.begun_at IS 'When the newest attempt began, written before the mail server hears of the message.';
COMMENT ON COLUMN mail_outbox.failure IS 'Class of the newest failure.';
COMMENT ON COLUMN mail_outbox.finished_at IS 'When it was sent or given up.';

ALTER TABLE mail_outbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE mail_outbox FORCE ROW LEVEL SECURITY;
CREATE POLICY mail_outbox_scope ON mail_outbox USING ((SELECT sidle_platform()));
GRANT SELECT, INSERT, UPDATE, DELETE ON mail_outbox TO sidle_app;

CREATE FUNCTION mail_enqueue(p_mail jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text;
    v_user uuid := (p_mail ->> 'user_id')::uuid;
    v_recipient text := nullif(p_mail ->> 'recipient', '');
    v_key text := p_mail ->> 'recipient_key';
    v_now timestamptz := clock_timestamp();
BEGIN
    -- No mail server, no message.
    IF p_mail IS NULL OR jsonb_typeof(p_mail) = 'null' THEN
        RETURN;
    END IF;
    v_scope := session_widen();
    IF v_recipient IS NULL THEN
        -- The address as it is now: whoever changes it later does not divert the message.
        SELECT u.email, u.email_key INTO v_recipient, v_key FROM users u WHERE u.user_id = v_user AND u.deleted_at IS NULL;
    END IF;
    -- Here and not with those who cause messages, so that none of them can forget it.
    IF v_recipient IS NOT NULL
            AND NOT mail_is_capped(v_key, p_mail ->> 'kind', (p_mail ->> 'per_address_and_hour')::integer) THEN
        INSERT INTO mail_outbox (mail_id, kind, user_id, recipient, recipient_hash, parameters, created_at,
            expires_at, next_attempt_at)
        VALUES ((p_mail ->> 'mail_id')::uuid, p_mail ->> 'kind', v_user, v_recipient,
            sha256(convert_to(v_key, 'UTF8')), decode(p_mail ->> 'parameters', 'hex'), v_now,
            v_now + make_interval(secs => (p_mail ->> 'lifetime_seconds')::double precision), v_now);
    END IF;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION mail_enqueue(jsonb) IS 'Writes a message that the service prepared, to the address it names or else to the user''s present one; nothing for null, and nothing to an address that has had its share.';
REVOKE ALL ON FUNCTION mail_enqueue(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mail_enqueue(jsonb) TO sidle_app;

CREATE FUNCTION mail_is_capped(p_recipient_key text, p_kind text, p_most integer) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_hash bytea := sha256(convert_to(p_recipient_key, 'UTF8'));
    v_asked text[] := ARRAY['verify_email', 'password_reset', 'kanidm_sign_in', 'registration_attempt'];
    v_kinds text[] := CASE WHEN p_kind = ANY (v_asked) THEN v_asked ELSE ARRAY[p_kind] END;
BEGIN
    IF p_kind = ANY (v_asked) THEN
        -- One after the other for each address, or several at once would each be below the limit. Notices do without:
        -- a change may write to two addresses, and two changes must not wait for each other.
        PERFORM pg_advisory_xact_lock(('x' || encode(substr(v_hash, 1, 8), 'hex'))::bit(64)::bigint);
    END IF;
    -- By address, whoever has it: deleting a user and making another begins no new count.
    RETURN (SELECT count(*) FROM mail_outbox m
            WHERE m.recipient_hash = v_hash AND m.created_at > clock_timestamp() - interval '1 hour'
                AND m.kind = ANY (v_kinds)) >= p_most;
END
$$;
COMMENT ON FUNCTION mail_is_capped(text, text, integer) IS 'Whether an address has had its share of messages of a kind in the last hour. Those that anybody can ask for share one limit; notices of each kind have their own, so that nobody keeps a warning away by causing something else first.';
REVOKE ALL ON FUNCTION mail_is_capped(text, text, integer) FROM PUBLIC;

-- Ways in that go through mail. What somebody asks for without having signed in is written down first, with the same
-- work whoever asks and for whatever address; a worker finds out afterwards whether anything is to be sent.

CREATE TABLE registrations (
    registration_id    uuid PRIMARY KEY,
    request_id         uuid NOT NULL,
    request_hash       bytea NOT NULL,
    tenant_id          uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    state              text NOT NULL DEFAULT 'asked',
    email              text,
    email_key          text,
    username           text,
    username_key       text,
    full_name          text,
    password_hash      text,
    password_cost      smallint,
    password_pepper_id smallint,
    secret_hash        bytea NOT NULL,
    token_hash         bytea,
    user_id            uuid REFERENCES users ON DELETE CASCADE,
    verified_at        timestamptz,
    password_kept      boolean NOT NULL DEFAULT false,
    created_at         timestamptz NOT NULL,
    expires_at         timestamptz NOT NULL,
    CONSTRAINT registrations_state_check CHECK (state IN ('asked', 'sent', 'dropped', 'superseded', 'verified')),
    CONSTRAINT registrations_personal_check CHECK ((state IN ('asked', 'sent')) = (email_key IS NOT NULL)
        AND (state IN ('asked', 'sent') OR (email IS NULL AND username IS NULL AND full_name IS NULL
            AND password_hash IS NULL))),
    CONSTRAINT registrations_username_key_check CHECK ((username IS NULL) = (username_key IS NULL)),
    CONSTRAINT registrations_verified_check CHECK ((state = 'verified') = (user_id IS NOT NULL)),
    CONSTRAINT registrations_hashes_check CHECK (octet_length(secret_hash) = 32 AND octet_length(token_hash) = 32)
);
CREATE UNIQUE INDEX registrations_request_key ON registrations (request_id);
CREATE UNIQUE INDEX registrations_token_hash_key ON registrations (token_hash) WHERE token_hash IS NOT NULL;
CREATE INDEX idx_registrations_asked ON registrations (created_at) WHERE state = 'asked';
CREATE INDEX idx_registrations_email_key ON registrations (email_key) WHERE email_key IS NOT NULL;
CREATE INDEX idx_registrations_expires_at ON registrations (expires_at);
CREATE INDEX idx_registrations_user ON registrations (user_id) WHERE user_id IS NOT NULL;
COMMENT ON TABLE registrations IS 'Accounts that somebody asked for. There is no user before the address was shown to be theirs: nobody takes an address or a name by asking.';
COMMENT ON COLUMN registrations.registration_id IS 'UUIDv7 of the registration.';
COMMENT ON COLUMN registrations.request_id IS 'The id that the caller chose; a repeat changes nothing.';
COMMENT ON COLUMN registrations.request_hash IS 'Keyed digest of the request; another request under the same id is refused.';
COMMENT ON COLUMN registrations.tenant_id IS 'Tenant to register in.';
COMMENT ON COLUMN registrations.state IS 'asked (nothing sent yet), sent, dropped (the address has an account, or had enough messages), superseded (by a newer one) or verified.';
COMMENT ON COLUMN registrations.email IS 'Address as given; null once nothing more is to come.';
COMMENT ON COLUMN registrations.email_key IS 'Key of the address; null once nothing more is to come.';
COMMENT ON COLUMN registrations.username IS 'Name to sign in with; null once nothing more is to come.';
COMMENT ON COLUMN registrations.username_key IS 'Key of that name; null once nothing more is to come.';
COMMENT ON COLUMN registrations.full_name IS 'Name shown to people; null once nothing more is to come.';
COMMENT ON COLUMN registrations.password_hash IS 'Hash of the password that was given; null once nothing more is to come.';
COMMENT ON COLUMN registrations.password_cost IS 'Cost of that hash.';
COMMENT ON COLUMN registrations.password_pepper_id IS 'Pepper of that hash; null for none.';
COMMENT ON COLUMN registrations.secret_hash IS 'SHA-256 of the secret that the client got: only who has it keeps the password.';
COMMENT ON COLUMN registrations.token_hash IS 'SHA-256 of the token in the message; null while none was sent.';
COMMENT ON COLUMN registrations.user_id IS 'The user it became.';
COMMENT ON COLUMN registrations.verified_at IS 'When it became a user.';
COMMENT ON COLUMN registrations.password_kept IS 'Whether the user has the password that was given.';
COMMENT ON COLUMN registrations.created_at IS 'When it was asked for.';
COMMENT ON COLUMN registrations.expires_at IS 'When its token stops being accepted, and the row goes.';

CREATE TABLE password_reset_requests (
    request_id     uuid PRIMARY KEY,
    identifier_key text NOT NULL,
    correlation_id uuid NOT NULL,
    event          jsonb NOT NULL,
    personal       bytea,
    created_at     timestamptz NOT NULL
);
CREATE UNIQUE INDEX password_reset_requests_identifier_key ON password_reset_requests (identifier_key);
COMMENT ON TABLE password_reset_requests IS 'Addresses and usernames for which somebody asked for a new password, for the moment until a worker looks whose they are.';
COMMENT ON COLUMN password_reset_requests.request_id IS 'UUIDv7 of the request.';
COMMENT ON COLUMN password_reset_requests.identifier_key IS 'The address or username in lower case.';
COMMENT ON COLUMN password_reset_requests.correlation_id IS 'The call that asked.';
COMMENT ON COLUMN password_reset_requests.event IS 'The event of the request, which is recorded if the name is somebody''s: what is asked for in nobody''s name fills no log.';
COMMENT ON COLUMN password_reset_requests.personal IS 'Its personal data, sealed.';
COMMENT ON COLUMN password_reset_requests.created_at IS 'When it asked.';

CREATE TABLE one_time_tokens (
    token_id   uuid PRIMARY KEY,
    purpose    text NOT NULL,
    token_hash bytea NOT NULL,
    user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    email_key  text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    CONSTRAINT one_time_tokens_purpose_check CHECK (purpose IN ('verify_email', 'password_reset')),
    CONSTRAINT one_time_tokens_token_hash_check CHECK (octet_length(token_hash) = 32)
);
CREATE UNIQUE INDEX one_time_tokens_token_hash_key ON one_time_tokens (token_hash);
CREATE INDEX idx_one_time_tokens_user ON one_time_tokens (user_id, purpose);
CREATE INDEX idx_one_time_tokens_expires_at ON one_time_tokens (expires_at);
COMMENT ON TABLE one_time_tokens IS 'Tokens that were sent to users by mail.';
COMMENT ON COLUMN one_time_tokens.token_id IS 'UUIDv7 of the token.';
COMMENT ON COLUMN one_time_tokens.purpose IS 'What it is for: verify_email or password_reset.';
COMMENT ON COLUMN one_time_tokens.token_hash IS 'SHA-256 of the token, which has 256 random bits.';
COMMENT ON COLUMN one_time_tokens.user_id IS 'Whose it is.';
COMMENT ON COLUMN one_time_tokens.email_key IS 'Where it was sent; worth nothing once the user has another address.';
COMMENT ON COLUMN one_time_tokens.created_at IS 'When it was made; worth nothing once the password was set after that.';
COMMENT ON COLUMN one_time_tokens.expires_at IS 'When it stops being accepted.';
COMMENT ON COLUMN one_time_tokens.used_at IS 'When it was used or made void; kept until it expires, so that repeating is harmless.';

ALTER TABLE registrations ENABLE ROW LEVEL SECURITY;
ALTER TABLE registrations FORCE ROW LEVEL SECURITY;
CREATE POLICY registrations_scope ON registrations USING ((SELECT sidle_platform()));
ALTER TABLE password_reset_requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE password_reset_requests FORCE ROW LEVEL SECURITY;
CREATE POLICY password_reset_requests_scope ON password_reset_requests USING ((SELECT sidle_platform()));
ALTER TABLE one_time_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE one_time_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY one_time_tokens_scope ON one_time_tokens USING ((SELECT sidle_platform()));
-- All three change through the functions below and in no other way.
GRANT SELECT ON registrations, password_reset_requests, one_time_tokens TO sidle_app;

CREATE FUNCTION registration_is_open(p_tenant uuid) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, public
    AS $$
    SELECT EXISTS (SELECT FROM tenants t WHERE t.tenant_id = p_tenant AND t.status = 'active' AND t.deleted_at IS NULL
        AND t.settings -> 'allow_registration' = 'true'::jsonb)
$$;
COMMENT ON FUNCTION registration_is_open(uuid) IS 'Whether anybody may register in a tenant; closed unless its settings say otherwise.';

CREATE FUNCTION registration_close(p_registration uuid, p_state text) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, public
    AS $$
    UPDATE registrations SET state = p_state, email = NULL, email_key = NULL, username = NULL, username_key = NULL, full_name = NULL,
            password_hash = NULL, password_cost = NULL, password_pepper_id = NULL
        WHERE registration_id = p_registration
$$;
COMMENT ON FUNCTION registration_close(uuid, text) IS 'Ends a registration and forgets who asked for it.';

CREATE FUNCTION one_time_issue(p_purpose text, p_user uuid, p_token jsonb, p_now timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public
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

REVOKE ALL ON FUNCTION registration_is_open(uuid), registration_close(uuid, text),
    one_time_issue(text, uuid, jsonb, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registration_is_open(uuid) TO sidle_app;

CREATE FUNCTION registration_ask(p_registration jsonb, p_now timestamptz, p_event jsonb, p_personal bytea,
    OUT outcome text, OUT expires_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_tenant uuid := (p_registration ->> 'tenant_id')::uuid;
    r registrations%ROWTYPE;
BEGIN
    <<body>>
    BEGIN
        IF NOT registration_is_open(v_tenant)
            OR NOT tenant_takes_address(v_tenant, p_registration ->> 'email_key') THEN
            outcome := 'closed';
            EXIT body;
        END IF;
        expires_at := (p_registration ->> 'expires_at')::timestamptz;
        INSERT INTO registrations (registration_id, request_id, request_hash, tenant_id, email, email_key, username,
            username_key, full_name, password_hash, password_cost, password_pepper_id, secret_hash, created_at, expires_at)
        VALUES ((p_registration ->> 'registration_id')::uuid, (p_registration ->> 'request_id')::uuid,
            decode(p_registration ->> 'request_hash', 'hex'), v_tenant, p_registration ->> 'email',
            p_registration ->> 'email_key', p_registration ->> 'username', p_registration ->> 'username_key',
            p_registration ->> 'full_name',
            p_registration ->> 'password_hash', (p_registration ->> 'password_cost')::smallint,
            (p_registration ->> 'password_pepper_id')::smallint, decode(p_registration ->> 'secret_hash', 'hex'), p_now,
            registration_ask.expires_at)
        ON CONFLICT (request_id) DO NOTHING;
        IF FOUND THEN
            outcome := 'asked';
            PERFORM audit_record(p_event, p_personal);
            EXIT body;
        END IF;
        SELECT * INTO r FROM registrations x WHERE x.request_id = (p_registration ->> 'request_id')::uuid;
        outcome := CASE WHEN encode(r.request_hash, 'hex') = p_registration ->> 'request_hash' THEN 'repeated' ELSE 'reused' END;
        expires_at := r.expires_at;
    END body;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION registration_ask(jsonb, timestamptz, jsonb, bytea) IS 'Writes down that somebody asks for an account, without looking whether the address has one.';

CREATE FUNCTION registration_answer(p_now timestamptz, p_token jsonb, p_verify jsonb, p_attempt jsonb, p_most integer)
    RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
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
            OR NOT tenant_takes_address(r.tenant_id, r.email_key) THEN
            v_answer := 'lapsed';
        ELSE
            -- The user before the count of the address, as a change of the user does.
            SELECT * INTO u FROM users x WHERE x.email_key = r.email_key AND x.deleted_at IS NULL FOR NO KEY UPDATE;
            IF mail_is_capped(r.email_key, 'verify_email', p_most) THEN
                v_answer := 'capped';
            ELSIF u.user_id IS NULL THEN
                FOR v_older IN
                    SELECT x.registration_id FROM registrations x
                    WHERE x.email_key = r.email_key AND x.tenant_id = r.tenant_id AND x.state = 'sent' FOR UPDATE
                LOOP
                    PERFORM registration_close(v_older, 'superseded');
                END LOOP;
                UPDATE registrations x SET state = 'sent', token_hash = decode(p_token ->> 'token_hash', 'hex')
                    WHERE x.registration_id = r.registration_id;
                PERFORM mail_enqueue(p_verify || jsonb_build_object('recipient', r.email, 'recipient_key', r.email_key));
                v_answer := 'verification_sent';
                EXIT body;
            ELSIF u.verified_at IS NULL AND u.status <> 'disabled' THEN
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
    PERFORM session_narrow(v_scope);
    RETURN v_answer;
END
$$;
COMMENT ON FUNCTION registration_answer(timestamptz, jsonb, jsonb, jsonb, integer) IS 'Sends what the oldest registration without an answer leads to, and says what; null when there is none.';

CREATE FUNCTION email_verify(p_token_hash bytea, p_secret_hash bytea, p_now timestamptz, p_user jsonb, p_event jsonb,
    p_personal bytea, p_created jsonb, p_created_personal bytea, p_removed jsonb, p_notice jsonb,
    OUT outcome text, OUT user_id uuid, OUT verified_at timestamptz, OUT password_kept boolean, OUT sessions uuid[],
    OUT tokens_valid_from timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    -- An import in progress may be writing the same address; it may take minutes.
    SET lock_timeout = '2s'
    AS $$
DECLARE
    v_scope text := session_widen();
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
        SELECT * INTO r FROM registrations x WHERE x.token_hash = p_token_hash FOR UPDATE;
        IF FOUND THEN
            IF r.state = 'verified' AND r.expires_at > p_now THEN
                outcome := 'repeated';
                user_id := r.user_id;
                verified_at := r.verified_at;
                password_kept := r.password_kept;
                EXIT body;
            END IF;
            IF r.state <> 'sent' OR r.expires_at <= p_now OR NOT registration_is_open(r.tenant_id)
                OR NOT tenant_takes_address(r.tenant_id, r.email_key) THEN
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
                SELECT x.registration_id FROM registrations x WHERE x.email_key = v_key AND x.state = 'sent' FOR UPDATE
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
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION email_verify(bytea, bytea, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb) IS 'Takes a token as the proof that an address is its user''s: a registration becomes a user; for a user it is the first time for, everything set before goes.';

CREATE FUNCTION email_verification_ask(p_user uuid, p_token jsonb, p_now timestamptz, p_mail jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    -- To an address that has had its share nothing goes, and the token that it has got already stays good.
    IF p_mail IS NOT NULL AND EXISTS (SELECT FROM users u WHERE u.user_id = p_user AND u.deleted_at IS NULL
            AND (v_scope = 'on' OR u.tenant_id = sidle_tenant())
            AND NOT mail_is_capped(u.email_key, 'verify_email', (p_mail ->> 'per_address_and_hour')::integer)) THEN
        PERFORM one_time_issue('verify_email', p_user, p_token, p_now);
        PERFORM mail_enqueue(p_mail || jsonb_build_object('user_id', p_user));
    END IF;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION email_verification_ask(uuid, jsonb, timestamptz, jsonb) IS 'Sends a user the way to confirm the address they have now. In a tenant''s transaction only to its own users.';

CREATE FUNCTION password_reset_ask(p_request jsonb, p_now timestamptz, p_event jsonb, p_personal bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    INSERT INTO password_reset_requests (request_id, identifier_key, correlation_id, event, personal, created_at)
    VALUES ((p_request ->> 'request_id')::uuid, p_request ->> 'identifier_key',
        (p_request ->> 'correlation_id')::uuid, p_event, p_personal, p_now)
    ON CONFLICT (identifier_key) DO NOTHING;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION password_reset_ask(jsonb, timestamptz, jsonb, bytea) IS 'Writes down that somebody asks for a new password, without looking whose the address is.';

CREATE FUNCTION password_reset_answer(p_now timestamptz, p_token jsonb, p_reset jsonb, p_kanidm jsonb, p_most integer,
    p_event jsonb) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_answer text;
    q password_reset_requests%ROWTYPE;
    u users%ROWTYPE;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO q FROM password_reset_requests x ORDER BY x.created_at LIMIT 1 FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            EXIT body;
        END IF;
        DELETE FROM password_reset_requests x WHERE x.request_id = q.request_id;
        IF position('@' IN q.identifier_key) > 0 THEN
            SELECT * INTO u FROM users x WHERE x.email_key = q.identifier_key AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        ELSE
            SELECT * INTO u FROM users x WHERE x.username_key = q.identifier_key AND x.deleted_at IS NULL
                FOR NO KEY UPDATE;
        END IF;
        v_answer := CASE
            WHEN u.user_id IS NULL THEN 'unknown'
            WHEN u.status = 'disabled' THEN 'disabled'
            WHEN u.status <> 'active' OR u.verified_at IS NULL THEN 'unverified'
            WHEN mail_is_capped(u.email_key, 'password_reset', p_most) THEN 'capped'
            WHEN u.auth_method = 'kanidm' THEN 'kanidm_only'
            ELSE 'sent'
        END;
        IF v_answer = 'kanidm_only' THEN
            PERFORM mail_enqueue(p_kanidm || jsonb_build_object('recipient', u.email,
                    'recipient_key', u.email_key, 'user_id', u.user_id));
        ELSIF v_answer = 'sent' THEN
            PERFORM one_time_issue('password_reset', u.user_id, p_token, p_now);
            PERFORM mail_enqueue(p_reset || jsonb_build_object('recipient', u.email,
                    'recipient_key', u.email_key, 'user_id', u.user_id));
        END IF;
        IF u.user_id IS NOT NULL THEN
            PERFORM audit_record(q.event || jsonb_build_object('tenant_id', u.tenant_id, 'target_kind', 'user',
                'target_id', u.user_id, 'personal_subject', u.user_id), q.personal);
            PERFORM audit_record(p_event || jsonb_build_object('correlation_id', q.correlation_id,
                'tenant_id', u.tenant_id, 'target_kind', 'user', 'target_id', u.user_id,
                'outcome', CASE WHEN v_answer = 'sent' THEN 'success' ELSE 'refused' END,
                'reason', CASE WHEN v_answer <> 'sent' THEN v_answer END), NULL);
        END IF;
    END body;
    PERFORM session_narrow(v_scope);
    RETURN v_answer;
END
$$;
COMMENT ON FUNCTION password_reset_answer(timestamptz, jsonb, jsonb, jsonb, integer, jsonb) IS 'Sends what the oldest request for a new password leads to, and says what; null when there is none.';

CREATE FUNCTION password_reset_begin(p_token_hash bytea, p_now timestamptz,
    OUT user_id uuid, OUT tenant_id uuid, OUT email text, OUT username text, OUT full_name text, OUT has_factor boolean,
    OUT refusal text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_user uuid;
    t one_time_tokens%ROWTYPE;
    u users%ROWTYPE;
BEGIN
    -- The user before what is the user's, as everywhere.
    SELECT x.user_id INTO v_user FROM one_time_tokens x WHERE x.token_hash = p_token_hash AND x.purpose = 'password_reset';
    SELECT * INTO u FROM users x WHERE x.user_id = v_user AND x.deleted_at IS NULL FOR UPDATE;
    SELECT * INTO t FROM one_time_tokens x WHERE x.token_hash = p_token_hash AND x.purpose = 'password_reset' FOR UPDATE;
    user_id := u.user_id;
    tenant_id := u.tenant_id;
    email := u.email;
    username := u.username;
    full_name := u.full_name;
    has_factor := EXISTS (SELECT FROM user_totp x WHERE x.user_id = u.user_id AND x.confirmed_at IS NOT NULL);
    refusal := CASE
        WHEN t.token_id IS NULL OR u.user_id IS NULL THEN 'unknown'
        WHEN t.used_at IS NOT NULL THEN 'used'
        WHEN t.expires_at <= p_now THEN 'expired'
        WHEN u.status = 'disabled' THEN 'disabled'
        WHEN u.status <> 'active' OR u.verified_at IS NULL THEN 'unverified'
        WHEN t.email_key <> u.email_key THEN 'other_address'
        WHEN u.auth_method = 'kanidm' THEN 'kanidm_only'
        -- Set in another way since the token was made.
        WHEN u.password_changed_at >= t.created_at THEN 'superseded'
    END;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION password_reset_begin(bytea, timestamptz) IS 'Whose a reset token is, or why it is not accepted; holds the user until the transaction ends.';

CREATE FUNCTION password_reset_finish(p_user uuid, p_now timestamptz, OUT sessions uuid[], OUT tokens_valid_from timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    UPDATE one_time_tokens t SET used_at = p_now WHERE t.user_id = p_user AND t.used_at IS NULL;
    tokens_valid_from := tokens_revoke(ARRAY[p_user], NULL);
    sessions := session_end_all(p_user, NULL, 'credential_changed', p_now);
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION password_reset_finish(uuid, timestamptz) IS 'After a password was set by mail: no token of the user''s is worth anything any more, and no session goes on.';

CREATE FUNCTION one_time_tidy(p_now timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    DELETE FROM one_time_tokens WHERE token_id IN (SELECT t.token_id FROM one_time_tokens t WHERE t.expires_at <= p_now LIMIT 1000);
    DELETE FROM registrations WHERE registration_id IN (
        SELECT r.registration_id FROM registrations r WHERE r.expires_at <= p_now LIMIT 1000 FOR UPDATE SKIP LOCKED);
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION one_time_tidy(timestamptz) IS 'Removes tokens and registrations that have lapsed.';

REVOKE ALL ON FUNCTION registration_ask(jsonb, timestamptz, jsonb, bytea),
    registration_answer(timestamptz, jsonb, jsonb, jsonb, integer),
    email_verify(bytea, bytea, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb), email_verification_ask(uuid, jsonb, timestamptz, jsonb),
    password_reset_ask(jsonb, timestamptz, jsonb, bytea),
    password_reset_answer(timestamptz, jsonb, jsonb, jsonb, integer, jsonb), password_reset_begin(bytea, timestamptz),
    password_reset_finish(uuid, timestamptz), one_time_tidy(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registration_ask(jsonb, timestamptz, jsonb, bytea),
    registration_answer(timestamptz, jsonb, jsonb, jsonb, integer),
    email_verify(bytea, bytea, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb, jsonb), email_verification_ask(uuid, jsonb, timestamptz, jsonb),
    password_reset_ask(jsonb, timestamptz, jsonb, bytea),
    password_reset_answer(timestamptz, jsonb, jsonb, jsonb, integer, jsonb), password_reset_begin(bytea, timestamptz),
    password_reset_finish(uuid, timestamptz), one_time_tidy(timestamptz) TO sidle_app;
