-- Guessing: attempts that are counted before anything is computed, devices that are known, addresses that ask too often,
-- and password logins that may ask for a second factor.

CREATE TABLE known_devices (
    known_device_id uuid PRIMARY KEY,
    user_id         uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    token_hash      bytea NOT NULL,
    failed_attempts integer NOT NULL DEFAULT 0,
    second_factor_failures integer NOT NULL DEFAULT 0,
    locked_until    timestamptz,
    created_at      timestamptz NOT NULL,
    last_used_at    timestamptz,
    expires_at      timestamptz NOT NULL,
    CONSTRAINT known_devices_token_hash_check CHECK (octet_length(token_hash) = 32)
);
CREATE UNIQUE INDEX known_devices_token_hash_key ON known_devices (token_hash);
CREATE INDEX idx_known_devices_user ON known_devices (user_id);
CREATE INDEX idx_known_devices_expires_at ON known_devices (expires_at);
COMMENT ON TABLE known_devices IS 'Devices that a complete login was made from: their attempts are counted apart from everybody else''s, so that guessing by others locks nobody out of them.';
COMMENT ON COLUMN known_devices.known_device_id IS 'UUIDv7 of the device''s secret.';
COMMENT ON COLUMN known_devices.user_id IS 'For whom the device is known.';
COMMENT ON COLUMN known_devices.token_hash IS 'SHA-256 of the secret that the device keeps, which has 256 random bits.';
COMMENT ON COLUMN known_devices.failed_attempts IS 'Attempts reserved from the device since its last success.';
COMMENT ON COLUMN known_devices.second_factor_failures IS 'Attempts reserved at second factors from the device since the last complete login from it.';
COMMENT ON COLUMN known_devices.locked_until IS 'Sign-in from the device is refused until then.';
COMMENT ON COLUMN known_devices.created_at IS 'When the secret was handed out.';
COMMENT ON COLUMN known_devices.last_used_at IS 'When somebody last signed in with it; null if nobody ever has, and then it is the first to be forgotten.';
COMMENT ON COLUMN known_devices.expires_at IS 'When the device is forgotten unless somebody signs in from it.';

-- Not logged: what a crash loses here is a few seconds of counting.
CREATE UNLOGGED TABLE address_attempts (
    lane    text NOT NULL,
    network text NOT NULL,
    free_at timestamptz NOT NULL,
    PRIMARY KEY (network, lane)
) WITH (fillfactor = 70);
COMMENT ON TABLE address_attempts IS 'How much each client address has asked for lately, over every replica.';
COMMENT ON COLUMN address_attempts.lane IS 'Which ways in are counted together.';
COMMENT ON COLUMN address_attempts.network IS 'The address; of IPv6 the first 64 bits.';
COMMENT ON COLUMN address_attempts.free_at IS 'When all that was asked for would be paid off at the permitted rate; each call adds its share.';
CREATE INDEX idx_address_attempts_free_at ON address_attempts (free_at);

CREATE TABLE unknown_refusals (
    network    text NOT NULL,
    event_type text NOT NULL,
    until      timestamptz NOT NULL,
    refusals   bigint NOT NULL,
    earlier    bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (network, event_type)
) WITH (fillfactor = 70);
CREATE INDEX idx_unknown_refusals_until ON unknown_refusals (until);
COMMENT ON TABLE unknown_refusals IS 'Refusals of identifiers of nobody, counted for each address and recorded together: an event for each would let anybody fill the log.';
COMMENT ON COLUMN unknown_refusals.network IS 'The client''s address; of IPv6 the first 64 bits; empty where there is none.';
COMMENT ON COLUMN unknown_refusals.event_type IS 'Type of the event that stands for them.';
COMMENT ON COLUMN unknown_refusals.until IS 'When the interval ends that is being counted.';
COMMENT ON COLUMN unknown_refusals.refusals IS 'How many there were in it, apart from the first, which was recorded at once.';
COMMENT ON COLUMN unknown_refusals.earlier IS 'How many there were in the interval before, which the event of this one''s first tells.';

ALTER TABLE unknown_refusals ENABLE ROW LEVEL SECURITY;
ALTER TABLE unknown_refusals FORCE ROW LEVEL SECURITY;
CREATE POLICY unknown_refusals_scope ON unknown_refusals USING ((SELECT sidle_platform()));
GRANT SELECT, UPDATE, DELETE ON unknown_refusals TO sidle_app;
ALTER TABLE known_devices ENABLE ROW LEVEL SECURITY;
ALTER TABLE known_devices FORCE ROW LEVEL SECURITY;
CREATE POLICY known_devices_scope ON known_devices USING ((SELECT sidle_platform()));
ALTER TABLE address_attempts ENABLE ROW LEVEL SECURITY;
ALTER TABLE address_attempts FORCE ROW LEVEL SECURITY;
CREATE POLICY address_attempts_scope ON address_attempts USING ((SELECT sidle_platform()));
-- Both change through the functions below and in no other way.
GRANT SELECT ON known_devices TO sidle_app;

-- Whatever takes a password away, or its worth, takes the devices along that it made known.
CREATE FUNCTION known_devices_forget() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    DELETE FROM known_devices d WHERE d.user_id = NEW.user_id;
    PERFORM session_narrow(v_scope);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION known_devices_forget() IS 'Trigger: forgets the known devices of a user.';
CREATE TRIGGER users_known_devices_forget
    AFTER UPDATE OF password_changed_at, password_hash, auth_method, status, deleted_at ON users FOR EACH ROW
    WHEN (OLD.password_changed_at IS DISTINCT FROM NEW.password_changed_at OR NEW.password_hash IS NULL
        OR OLD.auth_method IS DISTINCT FROM NEW.auth_method AND OLD.auth_method <> 'password'
        OR NEW.status = 'disabled' OR NEW.deleted_at IS NOT NULL)
    EXECUTE FUNCTION known_devices_forget();

-- Whatever writes another hash changes the password, unless it says that it is the same one hashed anew.
CREATE FUNCTION users_password_version() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public
    AS $$
BEGIN
    NEW.password_version := OLD.password_version + 1;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION users_password_version() IS 'Trigger: counts a change of the password.';
CREATE TRIGGER users_password_version
    BEFORE UPDATE ON users FOR EACH ROW
    WHEN (OLD.password_hash IS DISTINCT FROM NEW.password_hash AND OLD.password_rehashes = NEW.password_rehashes)
    EXECUTE FUNCTION users_password_version();

CREATE FUNCTION known_devices_unlock(p_user uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    UPDATE known_devices d SET failed_attempts = 0, second_factor_failures = 0, locked_until = NULL FROM users u
        WHERE d.user_id = p_user AND u.user_id = d.user_id AND (v_scope = 'on' OR u.tenant_id = sidle_tenant());
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION known_devices_unlock(uuid) IS 'Forgets the failures from a user''s known devices; in a tenant''s transaction only of its own users.';

CREATE FUNCTION throttle_take(p_lane text, p_network text, p_now timestamptz, p_spacing interval, p_burst interval)
    RETURNS interval
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_wait interval;
BEGIN
    INSERT INTO address_attempts AS a (lane, network, free_at) VALUES (p_lane, p_network, p_now + p_spacing)
        ON CONFLICT (network, lane) DO UPDATE SET free_at = greatest(a.free_at, p_now) + p_spacing
            WHERE greatest(a.free_at, p_now) + p_spacing <= p_now + p_burst;
    IF NOT FOUND THEN
        SELECT a.free_at + p_spacing - p_burst - p_now INTO v_wait FROM address_attempts a
            WHERE a.network = p_network AND a.lane = p_lane;
        v_wait := greatest(v_wait, p_spacing);
    END IF;
    PERFORM session_narrow(v_scope);
    RETURN v_wait;
END
$$;
COMMENT ON FUNCTION throttle_take(text, text, timestamptz, interval, interval) IS 'Takes one call out of what an address may ask for, which fills up at one each spacing to as many as the burst is long; null, or how long to wait for the next.';

-- The attempts. Whoever checks a guessable secret reserves an attempt before, in its own transaction; gives it back when
-- the secret was right and more is to come; and forgets the failures only when somebody has signed in entirely.

CREATE FUNCTION attempt_reserve(p_user uuid, p_now timestamptz, p_max integer, p_lock interval, p_longest interval,
    p_device_hash bytea, OUT refusal text, OUT attempt integer, OUT known_device boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    u users%ROWTYPE;
    d known_devices%ROWTYPE;
    v_lock interval;
    v_guess integer := CASE WHEN p_longest IS NULL THEN 0 ELSE 1 END;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.user_id = p_user AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        -- One that has lapsed is a device like any other from here on: also for whoever finishes this attempt, so that a
        -- right login does not clear the device's count when it was the account's that was taken from.
        DELETE FROM known_devices x WHERE x.token_hash = p_device_hash AND x.user_id = p_user AND x.expires_at <= p_now;
        SELECT * INTO d FROM known_devices x WHERE x.token_hash = p_device_hash AND x.user_id = p_user FOR UPDATE;
        known_device := d.known_device_id IS NOT NULL;
        refusal := CASE
            WHEN u.user_id IS NULL THEN 'unknown'
            -- Only the automatic lock is for everybody else; an administrator's is for the device as well.
            WHEN u.locked_until > p_now AND NOT (known_device AND u.lock_reason = 'too_many_failures') THEN 'locked'
            WHEN d.locked_until > p_now THEN 'locked'
            WHEN u.status = 'disabled' THEN 'disabled'
            WHEN u.status <> 'active' THEN 'unverified'
        END;
        IF refusal IS NOT NULL THEN
            EXIT body;
        END IF;
        -- Whoever guesses at a second factor has the password: each lock is twice as long as the one before.
        v_lock := CASE WHEN p_longest IS NULL THEN p_lock ELSE greatest(p_lock, least(p_longest, p_lock * power(2, least(16,
            CASE WHEN known_device THEN d.second_factor_failures ELSE u.second_factor_failures END / p_max)))) END;
        -- A lock that has run out begins a new count; the row is locked, so attempts that come together count one by one.
        IF known_device THEN
            attempt := CASE WHEN d.locked_until IS NULL THEN d.failed_attempts ELSE 0 END + 1;
            UPDATE known_devices x SET failed_attempts = attempt,
                    second_factor_failures = x.second_factor_failures + v_guess,
                    locked_until = CASE WHEN attempt >= p_max THEN p_now + v_lock END
                WHERE x.known_device_id = d.known_device_id;
        ELSE
            attempt := CASE WHEN u.locked_until IS NULL THEN u.failed_login_attempts ELSE 0 END + 1;
            UPDATE users x SET failed_login_attempts = attempt,
                    second_factor_failures = x.second_factor_failures + v_guess,
                    locked_until = CASE WHEN attempt >= p_max THEN p_now + v_lock END,
                    lock_reason = CASE WHEN attempt >= p_max THEN 'too_many_failures' END
                WHERE x.user_id = u.user_id;
        END IF;
    END body;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION attempt_reserve(uuid, timestamptz, integer, interval, interval, bytea) IS 'Reserves an attempt at any guessable secret of a user, or says why not; the last attempt locks until it is known to be right. From a known device the count is the device''s own. With a longest lock it is an attempt at a second factor, whose locks grow up to that.';

CREATE FUNCTION attempt_refund(p_user uuid, p_device_hash bytea, p_now timestamptz, p_second_factor boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_guess integer := CASE WHEN p_second_factor THEN 1 ELSE 0 END;
BEGIN
    -- By the rule of the reservation: a device that has lapsed is not known, and the attempt was the account's.
    UPDATE known_devices x SET failed_attempts = greatest(x.failed_attempts - 1, 0), locked_until = NULL,
            second_factor_failures = greatest(x.second_factor_failures - v_guess, 0)
        WHERE x.token_hash = p_device_hash AND x.user_id = p_user AND x.expires_at > p_now;
    IF NOT FOUND THEN
        UPDATE users x SET failed_login_attempts = greatest(x.failed_login_attempts - 1, 0),
                second_factor_failures = greatest(x.second_factor_failures - v_guess, 0),
                locked_until = CASE WHEN x.lock_reason = 'administrator' THEN x.locked_until END,
                lock_reason = CASE WHEN x.lock_reason = 'administrator' THEN x.lock_reason END
            WHERE x.user_id = p_user;
    END IF;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION attempt_refund(uuid, bytea, timestamptz, boolean) IS 'Gives one reserved attempt back, with the lock it may have led to: the secret was right, but the failures before stay counted.';

CREATE FUNCTION attempt_succeeded(p_user uuid, p_device_hash bytea, p_now timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    UPDATE known_devices x SET failed_attempts = 0, second_factor_failures = 0, locked_until = NULL
        WHERE x.token_hash = p_device_hash AND x.user_id = p_user AND x.expires_at > p_now;
    -- A success from a known device gives those who guess from elsewhere no new attempts.
    IF NOT FOUND THEN
        UPDATE users x SET failed_login_attempts = 0, second_factor_failures = 0, locked_until = NULL, lock_reason = NULL
            WHERE x.user_id = p_user;
    END IF;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION attempt_succeeded(uuid, bytea, timestamptz) IS 'Forgets the failures, of the known device or of the account, once somebody has signed in entirely.';

-- Password login: begin before the hash, finish or refuse after it.

DROP FUNCTION login_begin(text, timestamptz, integer, interval);
DROP FUNCTION login_finish(uuid, text, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea);

CREATE FUNCTION login_begin(p_identifier text, p_now timestamptz, p_max integer, p_lock interval, p_device_hash bytea,
    p_network text, p_spacing interval, p_burst interval,
    OUT user_id uuid, OUT tenant_id uuid, OUT password_hash text, OUT password_version bigint,
    OUT password_pepper_id smallint, OUT set_here boolean, OUT attempt integer, OUT known_device boolean, OUT refusal text,
    OUT highest_cost smallint, OUT wait interval)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    u users%ROWTYPE;
    v_reserved record;
BEGIN
    <<body>>
    BEGIN
        -- What is reserved here reaches the disk with the refusal or the session, before anybody is answered.
        PERFORM set_config('synchronous_commit', 'off', true);
        SELECT max(x.password_cost) INTO highest_cost FROM users x;
        IF position('@' IN p_identifier) > 0 THEN
            SELECT * INTO u FROM users x WHERE x.email_key = p_identifier AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        ELSE
            SELECT * INTO u FROM users x WHERE x.username_key = p_identifier AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        END IF;
        -- After the user's row, which somebody may hold for long: whoever waits for it must not keep the address's row from
        -- everybody else who comes from there. The address was charged in memory before this call.
        IF p_network IS NOT NULL THEN
            wait := throttle_take('password', p_network, p_now, p_spacing, p_burst);
            IF wait IS NOT NULL THEN
                refusal := 'throttled';
                EXIT body;
            END IF;
        END IF;
        user_id := u.user_id;
        tenant_id := u.tenant_id;
        refusal := CASE
            WHEN u.user_id IS NULL THEN 'unknown'
            WHEN u.locked_until > p_now AND p_device_hash IS NULL THEN 'locked'
            WHEN u.status = 'disabled' THEN 'disabled'
            WHEN u.status <> 'active' THEN 'unverified'
            WHEN u.auth_method = 'kanidm' THEN 'kanidm_only'
            WHEN u.password_hash IS NULL THEN 'no_password'
        END;
        IF refusal IS NOT NULL THEN
            EXIT body;
        END IF;
        SELECT * INTO v_reserved FROM attempt_reserve(u.user_id, p_now, p_max, p_lock, NULL, p_device_hash);
        known_device := v_reserved.known_device;
        attempt := v_reserved.attempt;
        refusal := v_reserved.refusal;
        IF refusal IS NOT NULL THEN
            EXIT body;
        END IF;
        password_hash := u.password_hash;
        password_version := u.password_version;
        password_pepper_id := u.password_pepper_id;
        set_here := u.password_changed_at IS NOT NULL;
    END body;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION login_begin(text, timestamptz, integer, interval, bytea, text, interval, interval) IS 'Finds a user by e-mail address or username, takes the call out of what the client''s address may ask for and reserves an attempt, or says why not.';

CREATE FUNCTION login_refuse_unknown(p_network text, p_now timestamptz, p_interval interval, p_event jsonb,
    p_personal bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_refusals bigint;
    v_earlier bigint;
BEGIN
    INSERT INTO unknown_refusals AS r (network, event_type, until, refusals)
        VALUES (p_network, p_event ->> 'event_type', p_now + p_interval, 0)
        ON CONFLICT (network, event_type) DO UPDATE SET
            refusals = CASE WHEN r.until > p_now THEN r.refusals + 1 ELSE 0 END,
            earlier = CASE WHEN r.until > p_now THEN r.earlier ELSE r.refusals END,
            until = CASE WHEN r.until > p_now THEN r.until ELSE p_now + p_interval END
        RETURNING r.refusals, r.earlier INTO v_refusals, v_earlier;
    IF v_refusals = 0 THEN
        PERFORM audit_record(p_event || jsonb_build_object('details',
            coalesce(p_event -> 'details', '{}') || jsonb_build_object('earlier', v_earlier)), p_personal);
    END IF;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION login_refuse_unknown(text, timestamptz, interval, jsonb, bytea) IS 'Counts a refusal of an identifier of nobody; records the first of an interval, with how many more the one before had.';

CREATE FUNCTION login_complete(p_user uuid, p_asked_tenant uuid, p_now timestamptz, p_session jsonb, p_event jsonb,
    p_personal bytea, p_refused jsonb, p_refused_personal bytea, p_device_hash bytea, p_new_device jsonb,
    OUT outcome text, OUT tenant_id uuid, OUT choices uuid[], OUT roles text[], OUT permissions text[],
    OUT platform_permissions text[], OUT tokens_valid_from timestamptz, OUT must_change_password boolean,
    OUT email text, OUT username text, OUT full_name text, OUT auth_method text, OUT known_device boolean)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    u users%ROWTYPE;
    v_tenant record;
    v_rights record;
BEGIN
    SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
    -- Between begin and end the user may have been disabled, locked or moved to Kanidm.
    IF u.user_id IS NULL OR u.deleted_at IS NOT NULL OR u.status <> 'active' OR u.auth_method = 'kanidm'
            OR (u.locked_until > p_now AND u.lock_reason = 'administrator') THEN
        PERFORM audit_record(p_refused || '{"reason": "changed_meanwhile"}', p_refused_personal);
        outcome := 'refused';
        RETURN;
    END IF;
    PERFORM attempt_succeeded(p_user, p_device_hash, p_now);
    SELECT * INTO v_tenant FROM session_tenant(p_user, u.tenant_id, p_asked_tenant);
    choices := v_tenant.choices;
    IF v_tenant.outcome <> 'found' THEN
        PERFORM audit_record(p_refused || jsonb_build_object('reason', v_tenant.outcome), p_refused_personal);
        outcome := v_tenant.outcome;
        RETURN;
    END IF;
    UPDATE users x SET last_login_at = p_now WHERE x.user_id = p_user;
    PERFORM session_open(p_user, v_tenant.tenant_id, 'jwt', p_now, p_session);
    UPDATE known_devices x SET last_used_at = p_now, expires_at = (p_new_device ->> 'expires_at')::timestamptz
        WHERE x.token_hash = p_device_hash AND x.user_id = p_user AND x.expires_at > p_now;
    known_device := FOUND;
    IF NOT known_device THEN
        INSERT INTO known_devices (known_device_id, user_id, token_hash, created_at, expires_at)
        VALUES ((p_new_device ->> 'known_device_id')::uuid, p_user, decode(p_new_device ->> 'token_hash', 'hex'), p_now,
            (p_new_device ->> 'expires_at')::timestamptz);
        -- Those go first that never came back: a program that keeps nothing pushes out no device that does.
        DELETE FROM known_devices x WHERE x.known_device_id IN (
            SELECT d.known_device_id FROM known_devices d
            WHERE d.user_id = p_user AND d.token_hash <> decode(p_new_device ->> 'token_hash', 'hex')
            ORDER BY d.expires_at > p_now DESC, d.last_used_at DESC NULLS LAST, d.created_at DESC
            OFFSET greatest((p_new_device ->> 'most')::integer - 1, 0));
    END IF;
    PERFORM audit_record(p_event || jsonb_build_object('tenant_id', v_tenant.tenant_id, 'details',
        coalesce(p_event -> 'details', '{}') || jsonb_build_object('known_device', known_device)), p_personal);
    SELECT * INTO v_rights FROM session_rights(p_user, v_tenant.tenant_id);
    outcome := 'signed_in';
    tenant_id := v_tenant.tenant_id;
    roles := v_rights.roles;
    permissions := v_rights.permissions;
    platform_permissions := v_rights.platform_permissions;
    tokens_valid_from := u.tokens_valid_from;
    must_change_password := u.must_change_password;
    email := u.email;
    username := u.username;
    full_name := u.full_name;
    auth_method := u.auth_method;
END
$$;
COMMENT ON FUNCTION login_complete(uuid, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, bytea, jsonb) IS 'After every factor: forgets the failures, begins a session, makes the device known and tells what the user may do. For functions that have widened the scope.';

CREATE FUNCTION login_finish(p_user uuid, p_password_version bigint, p_asked_tenant uuid, p_now timestamptz, p_session jsonb,
    p_event jsonb, p_personal bytea, p_refused jsonb, p_refused_personal bytea, p_device_hash bytea, p_new_device jsonb,
    p_overlong boolean, p_challenge jsonb, p_challenged jsonb, p_challenged_personal bytea,
    OUT outcome text, OUT tenant_id uuid, OUT choices uuid[], OUT roles text[], OUT permissions text[],
    OUT platform_permissions text[], OUT tokens_valid_from timestamptz, OUT must_change_password boolean,
    OUT email text, OUT username text, OUT full_name text, OUT auth_method text, OUT known_device boolean,
    OUT recovery_codes boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    u users%ROWTYPE;
    v_done record;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
        -- While the hash was computed the user may have been disabled, moved to Kanidm or given another password.
        IF u.deleted_at IS NOT NULL OR u.status <> 'active' OR u.auth_method = 'kanidm'
                OR u.password_hash IS NULL OR u.password_version <> p_password_version
                OR (u.locked_until > p_now AND u.lock_reason = 'administrator') THEN
            PERFORM audit_record(p_refused || '{"reason": "changed_meanwhile"}', p_refused_personal);
            outcome := 'refused';
            EXIT body;
        END IF;
        -- Only the first 72 bytes were ever compared; what is beyond them protects nothing.
        IF p_overlong THEN
            UPDATE users x SET must_change_password = true WHERE x.user_id = p_user;
        END IF;
        IF EXISTS (SELECT FROM user_totp t WHERE t.user_id = p_user AND t.confirmed_at IS NOT NULL) THEN
            -- Given back, not forgotten: a right password alone must not make room for more guesses at the code.
            PERFORM attempt_refund(p_user, p_device_hash, p_now, false);
            DELETE FROM mfa_challenges c WHERE c.user_id = p_user AND c.expires_at <= p_now;
            INSERT INTO mfa_challenges (challenge_id, challenge_hash, user_id, password_version, request, created_at,
                expires_at)
            VALUES ((p_challenge ->> 'challenge_id')::uuid, decode(p_challenge ->> 'challenge_hash', 'hex'), p_user,
                p_password_version, p_challenge -> 'request', p_now, (p_challenge ->> 'expires_at')::timestamptz);
            PERFORM audit_record(p_challenged || jsonb_build_object('tenant_id', u.tenant_id), p_challenged_personal);
            recovery_codes := EXISTS (SELECT FROM recovery_codes r WHERE r.user_id = p_user AND r.used_at IS NULL);
            outcome := 'mfa_required';
            EXIT body;
        END IF;
        SELECT * INTO v_done FROM login_complete(p_user, p_asked_tenant, p_now, p_session, p_event, p_personal, p_refused,
            p_refused_personal, p_device_hash, p_new_device);
        outcome := v_done.outcome;
        tenant_id := v_done.tenant_id;
        choices := v_done.choices;
        roles := v_done.roles;
        permissions := v_done.permissions;
        platform_permissions := v_done.platform_permissions;
        tokens_valid_from := v_done.tokens_valid_from;
        must_change_password := v_done.must_change_password;
        email := v_done.email;
        username := v_done.username;
        full_name := v_done.full_name;
        auth_method := v_done.auth_method;
        known_device := v_done.known_device;
    END body;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION login_finish(uuid, bigint, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, bytea, jsonb, boolean, jsonb, jsonb, bytea) IS 'After the right password: completes the login, or asks for the second factor of a user who has one.';

CREATE FUNCTION password_change(p_user uuid, p_session uuid, p_password jsonb, p_tokens jsonb, p_now timestamptz,
    p_idle interval, p_persistent_idle interval, p_event jsonb, p_personal bytea,
    OUT outcome text, OUT tenant_id uuid, OUT audience text, OUT roles text[], OUT permissions text[],
    OUT platform_permissions text[], OUT expires_at timestamptz, OUT refresh_expires_at timestamptz,
    OUT ended_sessions uuid[], OUT tokens_valid_from timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    s sessions%ROWTYPE;
    v_rights record;
    v_hash bytea := decode(p_tokens ->> 'refresh_token_hash', 'hex');
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO s FROM sessions x WHERE x.session_id = p_session AND x.user_id = p_user FOR NO KEY UPDATE;
        IF s.status IS DISTINCT FROM 'active' OR s.expires_at <= p_now THEN
            outcome := 'session_ended';
            EXIT body;
        END IF;
        UPDATE users u SET password_hash = p_password ->> 'hash', password_cost = (p_password ->> 'cost')::smallint,
                password_pepper_id = (p_password ->> 'pepper_id')::smallint, password_changed_at = p_now,
                must_change_password = false
            WHERE u.user_id = p_user;
        tokens_valid_from := tokens_revoke(ARRAY[p_user], NULL);
        ended_sessions := session_end_all(p_user, p_session, 'credential_changed', p_now);
        -- The session goes on with tokens that nobody has seen yet: whoever has a copy of the old ones is out.
        refresh_expires_at := least(p_now + CASE WHEN s.persistent THEN p_persistent_idle ELSE p_idle END, s.expires_at);
        UPDATE refresh_tokens t SET revoked_at = p_now
            WHERE t.token_family = p_session AND t.used_at IS NULL AND t.revoked_at IS NULL;
        INSERT INTO refresh_tokens (refresh_token_id, token_family, session_id, token_hash, tenant_id, access_until,
                created_at, expires_at)
            VALUES ((p_tokens ->> 'refresh_token_id')::uuid, p_session, p_session, v_hash, s.tenant_id,
                (p_tokens ->> 'access_until')::timestamptz, p_now, refresh_expires_at);
        UPDATE sessions x SET last_activity_at = p_now, idle_expires_at = refresh_expires_at,
                refresh_token_jti = (p_tokens ->> 'refresh_token_id')::uuid, refresh_token_hash = v_hash,
                access_token_jti = (p_tokens ->> 'access_token_jti')::uuid
            WHERE x.session_id = p_session;
        PERFORM audit_record(p_event || jsonb_build_object('details', coalesce(p_event -> 'details', '{}')
            || jsonb_build_object('sessions', ended_sessions,
                'tokens_valid_from', (extract(epoch FROM tokens_valid_from) * 1000000)::bigint)), p_personal);
        SELECT * INTO v_rights FROM session_rights(p_user, s.tenant_id);
        outcome := 'changed';
        tenant_id := s.tenant_id;
        audience := s.audience;
        roles := v_rights.roles;
        permissions := v_rights.permissions;
        platform_permissions := v_rights.platform_permissions;
        expires_at := s.expires_at;
    END body;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION password_change(uuid, uuid, jsonb, jsonb, timestamptz, interval, interval, jsonb, bytea) IS 'Sets a password from within a session of the user, whose row the caller has locked: every other session ends, this one gets new tokens.';

CREATE FUNCTION guessing_tidy(p_now timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    DELETE FROM address_attempts a WHERE (a.network, a.lane) IN (
        SELECT x.network, x.lane FROM address_attempts x WHERE x.free_at <= p_now LIMIT 10000 FOR UPDATE SKIP LOCKED);
    DELETE FROM known_devices d WHERE d.known_device_id IN (
        SELECT x.known_device_id FROM known_devices x WHERE x.expires_at <= p_now LIMIT 10000);
    DELETE FROM mfa_challenges c WHERE c.challenge_id IN (
        SELECT x.challenge_id FROM mfa_challenges x WHERE x.expires_at <= p_now LIMIT 10000);
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION guessing_tidy(timestamptz) IS 'Removes what has lapsed: counts of addresses, known devices, logins that wait for a second factor; at most 10,000 of each.';

REVOKE ALL ON FUNCTION known_devices_forget(), users_password_version(),
    login_refuse_unknown(text, timestamptz, interval, jsonb, bytea), known_devices_unlock(uuid),
    throttle_take(text, text, timestamptz, interval, interval),
    attempt_reserve(uuid, timestamptz, integer, interval, interval, bytea),
    attempt_refund(uuid, bytea, timestamptz, boolean), attempt_succeeded(uuid, bytea, timestamptz),
    login_begin(text, timestamptz, integer, interval, bytea, text, interval, interval),
    login_complete(uuid, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, bytea, jsonb),
    login_finish(uuid, bigint, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, bytea, jsonb, boolean, jsonb, jsonb, bytea),
    password_change(uuid, uuid, jsonb, jsonb, timestamptz, interval, interval, jsonb, bytea),
    guessing_tidy(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION login_refuse_unknown(text, timestamptz, interval, jsonb, bytea),
    known_devices_unlock(uuid), throttle_take(text, text, timestamptz, interval, interval),
    attempt_refund(uuid, bytea, timestamptz, boolean),
    login_begin(text, timestamptz, integer, interval, bytea, text, interval, interval),
    login_finish(uuid, bigint, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, bytea, jsonb, boolean, jsonb, jsonb, bytea),
    password_change(uuid, uuid, jsonb, jsonb, timestamptz, interval, interval, jsonb, bytea),
    guessing_tidy(timestamptz) TO sidle_app;
