-- The way of a user to a first credential in Kanidm: invitations of Sidle's own, the one reset link that a person has at
-- a time, and passwords that are carried over.
--
-- Invitations go by the service's clock, as other tokens do. Leases and reset links go by the database's, which all
-- replicas share.

CREATE TABLE invitations (
    user_id       uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    invitation_id uuid NOT NULL,
    token_hash    bytea NOT NULL,
    route         text NOT NULL,
    created_at    timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL,
    CONSTRAINT invitations_route_check CHECK (route IN ('login', 'mail')),
    CONSTRAINT invitations_token_hash_check CHECK (octet_length(token_hash) = 32)
);
CREATE UNIQUE INDEX invitations_token_hash_key ON invitations (token_hash);
CREATE INDEX idx_invitations_expires_at ON invitations (expires_at);
COMMENT ON TABLE invitations IS 'Invitations to enrol in Kanidm that can be redeemed; a user has one at most, and a newer one takes its place.';
COMMENT ON COLUMN invitations.user_id IS 'Who is invited.';
COMMENT ON COLUMN invitations.invitation_id IS 'UUIDv7 of the invitation.';
COMMENT ON COLUMN invitations.token_hash IS 'SHA-256 of the token, which has 256 random bits.';
COMMENT ON COLUMN invitations.route IS 'How the token reached the user: login (in the answer to a login) or mail.';
COMMENT ON COLUMN invitations.created_at IS 'When it was handed out.';
COMMENT ON COLUMN invitations.expires_at IS 'When it stops being accepted.';

CREATE TABLE kanidm_enrolments (
    person_id          uuid PRIMARY KEY,
    credential_seen_at timestamptz,
    link_id            uuid,
    link               bytea,
    link_until         timestamptz,
    lease_id           uuid,
    lease_until        timestamptz,
    carry_over_at      timestamptz,
    carry_over_outcome text,
    mailed_at          timestamptz,
    CONSTRAINT kanidm_enrolments_link_check CHECK (
        (link_id IS NULL) = (link_until IS NULL) AND (link IS NULL OR link_id IS NOT NULL)),
    CONSTRAINT kanidm_enrolments_lease_check CHECK ((lease_id IS NULL) = (lease_until IS NULL)),
    CONSTRAINT kanidm_enrolments_carry_over_check CHECK (
        (carry_over_at IS NULL) = (carry_over_outcome IS NULL)
        AND carry_over_outcome IN ('done', 'credential', 'second_factor', 'weak', 'refused', 'unavailable', 'dropped'))
);
COMMENT ON TABLE kanidm_enrolments IS 'What is known about the credentials of persons in Kanidm, and what is under way to give them one. Outlives a link to a user, so that undoing and repeating it makes no second reset link.';
COMMENT ON COLUMN kanidm_enrolments.person_id IS 'uuid of the person; users.kanidm_user_id.';
COMMENT ON COLUMN kanidm_enrolments.credential_seen_at IS 'When the person was first seen to have a credential; null while none is known of.';
COMMENT ON COLUMN kanidm_enrolments.link_id IS 'UUIDv7 of the newest reset link; the link is bound to it.';
COMMENT ON COLUMN kanidm_enrolments.link IS 'The reset link, sealed, for handing it out again; null when it never arrived or must not be handed out any more.';
COMMENT ON COLUMN kanidm_enrolments.link_until IS 'Until when the link may work, and no other is made; written before Kanidm is asked for it.';
COMMENT ON COLUMN kanidm_enrolments.lease_id IS 'Who is about to give the person a credential: one at a time.';
COMMENT ON COLUMN kanidm_enrolments.lease_until IS 'When another may.';
COMMENT ON COLUMN kanidm_enrolments.carry_over_at IS 'When carrying the password over was tried last.';
COMMENT ON COLUMN kanidm_enrolments.carry_over_outcome IS 'How that ended: done, credential (there was one), second_factor (Kanidm asks for one), weak, refused, unavailable or dropped.';
COMMENT ON COLUMN kanidm_enrolments.mailed_at IS 'When an invitation was mailed last after a login from an unknown device.';

ALTER TABLE invitations ENABLE ROW LEVEL SECURITY;
ALTER TABLE invitations FORCE ROW LEVEL SECURITY;
CREATE POLICY invitations_scope ON invitations USING ((SELECT sidle_platform()));
ALTER TABLE kanidm_enrolments ENABLE ROW LEVEL SECURITY;
ALTER TABLE kanidm_enrolments FORCE ROW LEVEL SECURITY;
CREATE POLICY kanidm_enrolments_scope ON kanidm_enrolments USING ((SELECT sidle_platform()));
-- Both change through the functions below and in no other way.
GRANT SELECT ON invitations, kanidm_enrolments TO sidle_app;

-- What voids an invitation stands here and not with whoever does it, so that no path can forget it.

CREATE FUNCTION invitations_void() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    DELETE FROM invitations i WHERE i.user_id = NEW.user_id;
    -- A link that is out cannot be called back from Kanidm, but nobody gets it any more.
    UPDATE kanidm_enrolments e SET link = NULL
        WHERE e.person_id IN (OLD.kanidm_user_id, NEW.kanidm_user_id) AND e.link IS NOT NULL;
    PERFORM session_narrow(v_scope);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION invitations_void() IS 'Trigger: voids the invitation of a user and takes back the reset link.';
-- A hash that is only renewed is no new password: password_changed_at stays.
CREATE TRIGGER users_invitations_void
    AFTER UPDATE OF email_key, password_hash, password_changed_at, must_change_password, auth_method, status,
        locked_until, kanidm_user_id, migration_completed_at, deleted_at ON users FOR EACH ROW
    WHEN (OLD.email_key <> NEW.email_key
        OR OLD.password_changed_at IS DISTINCT FROM NEW.password_changed_at
        OR NEW.password_hash IS NULL
        OR (NEW.must_change_password AND NOT OLD.must_change_password)
        OR OLD.auth_method <> NEW.auth_method
        OR NEW.status <> 'active'
        OR (NEW.locked_until IS NOT NULL AND OLD.locked_until IS DISTINCT FROM NEW.locked_until)
        OR OLD.kanidm_user_id IS DISTINCT FROM NEW.kanidm_user_id
        OR OLD.migration_completed_at IS DISTINCT FROM NEW.migration_completed_at
        OR NEW.deleted_at IS NOT NULL)
    EXECUTE FUNCTION invitations_void();

-- An invitation that a second factor protects must not outlive it, nor one from before it come in without it.
CREATE FUNCTION invitations_void_factor() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_user uuid := CASE WHEN TG_OP = 'DELETE' THEN OLD.user_id ELSE NEW.user_id END;
BEGIN
    -- Persons before invitations, here as everywhere, so that nobody waits for one who waits for him.
    UPDATE kanidm_enrolments e SET link = NULL FROM users u
        WHERE u.user_id = v_user AND e.person_id = u.kanidm_user_id AND e.link IS NOT NULL;
    DELETE FROM invitations i WHERE i.user_id = v_user;
    PERFORM session_narrow(v_scope);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION invitations_void_factor() IS 'Trigger: voids the invitation of a user whose second factor changes.';
CREATE TRIGGER user_totp_invitations_void
    AFTER UPDATE OF confirmed_at, secret, totp_id ON user_totp FOR EACH ROW
    WHEN (OLD.confirmed_at IS DISTINCT FROM NEW.confirmed_at
        OR (NEW.confirmed_at IS NOT NULL AND (OLD.secret, OLD.totp_id) IS DISTINCT FROM (NEW.secret, NEW.totp_id)))
    EXECUTE FUNCTION invitations_void_factor();
CREATE TRIGGER user_totp_invitations_void_removed
    AFTER DELETE ON user_totp FOR EACH ROW
    WHEN (OLD.confirmed_at IS NOT NULL)
    EXECUTE FUNCTION invitations_void_factor();

CREATE FUNCTION invitations_void_enrolled() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    DELETE FROM invitations i USING users u WHERE u.kanidm_user_id = NEW.person_id AND i.user_id = u.user_id;
    NEW.link := NULL;
    PERFORM session_narrow(v_scope);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION invitations_void_enrolled() IS 'Trigger: voids the invitation of a user whose person in Kanidm has a credential, and takes back the reset link.';
CREATE TRIGGER kanidm_enrolments_invitations_void
    BEFORE INSERT OR UPDATE OF credential_seen_at ON kanidm_enrolments FOR EACH ROW
    WHEN (NEW.credential_seen_at IS NOT NULL)
    EXECUTE FUNCTION invitations_void_enrolled();

-- Who can be invited.
CREATE FUNCTION enrolment_pending(u users) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, public
    AS $$
    SELECT u.auth_method = 'dual' AND u.kanidm_user_id IS NOT NULL AND u.migration_completed_at IS NULL
        AND u.status = 'active' AND u.deleted_at IS NULL AND u.password_hash IS NOT NULL
        AND NOT EXISTS (SELECT FROM kanidm_enrolments e
            WHERE e.person_id = u.kanidm_user_id AND e.credential_seen_at IS NOT NULL)
$$;
COMMENT ON FUNCTION enrolment_pending(users) IS 'Whether a user is linked to a person in Kanidm who is not known to have a credential. For functions that have widened the scope.';

CREATE FUNCTION enrolment_tenant(p_tenant uuid, p_slugs jsonb) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, public
    AS $$
    SELECT jsonb_array_length(p_slugs) = 0
        OR EXISTS (SELECT FROM tenants t WHERE t.tenant_id = p_tenant AND p_slugs ? t.slug)
$$;
COMMENT ON FUNCTION enrolment_tenant(uuid, jsonb) IS 'Whether a tenant is among these slugs; every tenant is when there are none. For functions that have widened the scope.';

-- Called in the statement that completes a login, with what that gave: so it comes after every factor, and costs no
-- round trip.
CREATE FUNCTION invitation_offer(p_outcome text, p_known_device boolean, p_user uuid, p_now timestamptz, p_offer jsonb,
    p_personal bytea) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text;
    u users%ROWTYPE;
    v_route text;
BEGIN
    IF p_outcome IS DISTINCT FROM 'signed_in' OR p_offer IS NULL OR jsonb_typeof(p_offer) <> 'object' THEN
        RETURN NULL;
    END IF;
    v_scope := session_widen();
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
        IF u.user_id IS NULL OR u.must_change_password OR u.locked_until > p_now OR NOT enrolment_pending(u)
                OR NOT enrolment_tenant(u.tenant_id, p_offer -> 'tenants') THEN
            EXIT body;
        END IF;
        IF p_known_device THEN
            v_route := 'login';
        ELSE
            -- Whoever has only the password gets nothing here: the invitation goes where the user has shown to be.
            IF u.verified_at IS NULL OR p_offer -> 'mail' IS NULL OR jsonb_typeof(p_offer -> 'mail') <> 'object' THEN
                EXIT body;
            END IF;
            INSERT INTO kanidm_enrolments AS e (person_id, mailed_at) VALUES (u.kanidm_user_id, p_now)
                ON CONFLICT (person_id) DO UPDATE SET mailed_at = p_now
                    WHERE e.mailed_at IS NULL
                        OR e.mailed_at + make_interval(secs => (p_offer ->> 'mail_every')::double precision) <= p_now;
            IF NOT FOUND THEN
                EXIT body;
            END IF;
            v_route := 'mail';
            PERFORM mail_enqueue((p_offer -> 'mail') || jsonb_build_object('user_id', p_user));
        END IF;
        INSERT INTO invitations AS i (user_id, invitation_id, token_hash, route, created_at, expires_at)
            VALUES (p_user, (p_offer ->> 'invitation_id')::uuid, decode(p_offer ->> 'token_hash', 'hex'), v_route, p_now,
                (p_offer ->> 'expires_at')::timestamptz)
            ON CONFLICT (user_id) DO UPDATE SET invitation_id = excluded.invitation_id,
                token_hash = excluded.token_hash, route = excluded.route, created_at = excluded.created_at,
                expires_at = excluded.expires_at;
        UPDATE users x SET migration_invited_at = p_now WHERE x.user_id = p_user AND x.migration_invited_at IS NULL;
        PERFORM audit_record((p_offer -> 'event') || jsonb_build_object('tenant_id', u.tenant_id, 'details',
            coalesce(p_offer -> 'event' -> 'details', '{}') || jsonb_build_object('route', v_route)), p_personal);
    END body;
    PERFORM session_narrow(v_scope);
    RETURN v_route;
END
$$;
COMMENT ON FUNCTION invitation_offer(text, boolean, uuid, timestamptz, jsonb, bytea) IS 'After a complete login: invites a user who has not enrolled in Kanidm yet. Tells whether the token goes into the answer (login) or went by mail; null when there is no invitation.';

CREATE FUNCTION invitation_find(p_token_hash bytea, p_now timestamptz,
    OUT invitation_id uuid, OUT user_id uuid, OUT second_factor boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    SELECT i.invitation_id, u.user_id,
            EXISTS (SELECT FROM user_totp t WHERE t.user_id = u.user_id AND t.confirmed_at IS NOT NULL)
        INTO invitation_id, user_id, second_factor
        FROM invitations i JOIN users u ON u.user_id = i.user_id
        WHERE i.token_hash = p_token_hash AND i.expires_at > p_now AND enrolment_pending(u);
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION invitation_find(bytea, timestamptz) IS 'Whose invitation this is, if it can be redeemed.';

-- From here on: giving a person a first credential, one at a time. Users are locked before their person's row.

CREATE FUNCTION enrolment_begin(p_invitation uuid, p_user uuid, p_second_factor boolean, p_now timestamptz, p_lease uuid,
    p_lease_time interval,
    OUT outcome text, OUT person_id uuid, OUT link_id uuid, OUT link bytea, OUT wait interval)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    u users%ROWTYPE;
    e kanidm_enrolments%ROWTYPE;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
        -- While the password was compared the invitation may have died, or a second factor been added.
        IF u.user_id IS NULL OR NOT enrolment_pending(u) OR u.locked_until > p_now
                OR NOT EXISTS (SELECT FROM invitations i
                    WHERE i.user_id = p_user AND i.invitation_id = p_invitation AND i.expires_at > p_now)
                OR (NOT p_second_factor AND EXISTS (SELECT FROM user_totp t
                    WHERE t.user_id = p_user AND t.confirmed_at IS NOT NULL)) THEN
            outcome := 'gone';
            EXIT body;
        END IF;
        person_id := u.kanidm_user_id;
        INSERT INTO kanidm_enrolments AS x (person_id, lease_id, lease_until)
            VALUES (u.kanidm_user_id, p_lease, clock_timestamp() + p_lease_time)
            ON CONFLICT ON CONSTRAINT kanidm_enrolments_pkey DO UPDATE SET lease_id = excluded.lease_id, lease_until = excluded.lease_until
                WHERE x.lease_until IS NULL OR x.lease_until <= clock_timestamp()
            RETURNING * INTO e;
        IF NOT FOUND THEN
            outcome := 'busy';
            EXIT body;
        END IF;
        outcome := 'begun';
        IF e.link_until > clock_timestamp() THEN
            link_id := e.link_id;
            link := e.link;
            wait := e.link_until - clock_timestamp();
        END IF;
    END body;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION enrolment_begin(uuid, uuid, boolean, timestamptz, uuid, interval) IS 'After every proof that redeeming an invitation takes: takes the lease on the person, and gives the link that may still work.';

CREATE FUNCTION enrolment_intend(p_person uuid, p_lease uuid, p_link_id uuid, p_lifetime interval) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_result boolean;
BEGIN
    UPDATE kanidm_enrolments e SET link_id = p_link_id, link = NULL, link_until = clock_timestamp() + p_lifetime
        WHERE e.person_id = p_person AND e.lease_id = p_lease AND e.lease_until > clock_timestamp()
            AND e.credential_seen_at IS NULL AND (e.link_until IS NULL OR e.link_until <= clock_timestamp());
    v_result := FOUND;
    PERFORM session_narrow(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION enrolment_intend(uuid, uuid, uuid, interval) IS 'Writes down that a reset link is about to be made, which is so only while none may work.';

CREATE FUNCTION enrolment_minted(p_invitation uuid, p_user uuid, p_person uuid, p_lease uuid, p_link_id uuid, p_link bytea,
    p_lifetime interval, p_now timestamptz, p_event jsonb, p_personal bytea) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    u users%ROWTYPE;
    v_result boolean := false;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
        -- Kanidm decides how long the link works; should it be longer than it was asked for, that counts.
        UPDATE kanidm_enrolments e SET link_until = greatest(e.link_until, clock_timestamp() + p_lifetime)
            WHERE e.person_id = p_person AND e.link_id = p_link_id;
        IF u.kanidm_user_id IS DISTINCT FROM p_person OR NOT enrolment_pending(u)
                OR NOT EXISTS (SELECT FROM invitations i
                    WHERE i.user_id = p_user AND i.invitation_id = p_invitation AND i.expires_at > p_now) THEN
            EXIT body;
        END IF;
        UPDATE kanidm_enrolments e SET link = p_link, lease_id = NULL, lease_until = NULL
            WHERE e.person_id = p_person AND e.link_id = p_link_id AND e.lease_id = p_lease;
        IF NOT FOUND THEN
            EXIT body;
        END IF;
        PERFORM audit_record(p_event || jsonb_build_object('tenant_id', u.tenant_id), p_personal);
        v_result := true;
    END body;
    PERFORM session_narrow(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION enrolment_minted(uuid, uuid, uuid, uuid, uuid, bytea, interval, timestamptz, jsonb, bytea) IS 'Keeps the reset link that was made, to be handed out; not when the invitation died meanwhile.';

CREATE FUNCTION enrolment_repeat(p_invitation uuid, p_user uuid, p_person uuid, p_lease uuid, p_link_id uuid,
    p_now timestamptz, p_event jsonb, p_personal bytea) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    u users%ROWTYPE;
    v_result boolean;
BEGIN
    SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
    UPDATE kanidm_enrolments e SET lease_id = NULL, lease_until = NULL
        WHERE e.person_id = p_person AND e.lease_id = p_lease AND e.link_id = p_link_id AND e.link IS NOT NULL
            AND u.kanidm_user_id = p_person AND EXISTS (SELECT FROM invitations i
                WHERE i.user_id = p_user AND i.invitation_id = p_invitation AND i.expires_at > p_now);
    v_result := FOUND;
    IF v_result THEN
        PERFORM audit_record(p_event || jsonb_build_object('tenant_id', u.tenant_id), p_personal);
    END IF;
    PERFORM session_narrow(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION enrolment_repeat(uuid, uuid, uuid, uuid, uuid, timestamptz, jsonb, bytea) IS 'Hands the reset link out again that still works; not when the invitation died meanwhile.';

CREATE FUNCTION enrolment_release(p_person uuid, p_lease uuid, p_unmade uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    UPDATE kanidm_enrolments e SET lease_id = NULL, lease_until = NULL
        WHERE e.person_id = p_person AND e.lease_id = p_lease;
    UPDATE kanidm_enrolments e SET link_id = NULL, link = NULL, link_until = NULL
        WHERE e.person_id = p_person AND e.link_id = p_unmade;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION enrolment_release(uuid, uuid, uuid) IS 'Gives the lease on a person back, and forgets a reset link that Kanidm said it did not make.';

CREATE FUNCTION enrolment_credential(p_person uuid, p_lease uuid, p_now timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    PERFORM FROM users u WHERE u.kanidm_user_id = p_person FOR NO KEY UPDATE;
    UPDATE kanidm_enrolments e SET credential_seen_at = coalesce(e.credential_seen_at, p_now)
        WHERE e.person_id = p_person;
    UPDATE kanidm_enrolments e SET lease_id = NULL, lease_until = NULL
        WHERE e.person_id = p_person AND e.lease_id = p_lease;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION enrolment_credential(uuid, uuid, timestamptz) IS 'Writes down that a person has a credential, and gives the lease back.';

-- Carrying a password over.

CREATE FUNCTION carry_over_begin(p_user uuid, p_password_version bigint, p_tenants jsonb, p_now timestamptz,
    p_again_after interval, p_lease uuid, p_lease_time interval,
    OUT person_id uuid, OUT tenant_id uuid, OUT password_changed_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    u users%ROWTYPE;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
        IF u.user_id IS NULL OR u.must_change_password OR u.locked_until > p_now OR NOT enrolment_pending(u)
                OR u.password_hash IS NULL OR u.password_version <> p_password_version OR NOT enrolment_tenant(u.tenant_id, p_tenants)
                OR EXISTS (SELECT FROM user_totp t WHERE t.user_id = p_user AND t.confirmed_at IS NOT NULL) THEN
            EXIT body;
        END IF;
        -- Not beside a reset link: whoever has it could undo what is carried over.
        INSERT INTO kanidm_enrolments AS e (person_id, lease_id, lease_until)
            VALUES (u.kanidm_user_id, p_lease, clock_timestamp() + p_lease_time)
            ON CONFLICT ON CONSTRAINT kanidm_enrolments_pkey DO UPDATE SET lease_id = excluded.lease_id, lease_until = excluded.lease_until
                WHERE (e.lease_until IS NULL OR e.lease_until <= clock_timestamp())
                    AND (e.link_until IS NULL OR e.link_until <= clock_timestamp())
                    AND (e.carry_over_at IS NULL OR e.carry_over_outcome IN ('unavailable', 'dropped')
                        OR e.carry_over_at + p_again_after <= p_now OR e.carry_over_at <= u.password_changed_at);
        IF NOT FOUND THEN
            EXIT body;
        END IF;
        person_id := u.kanidm_user_id;
        tenant_id := u.tenant_id;
        password_changed_at := u.password_changed_at;
    END body;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION carry_over_begin(uuid, bigint, jsonb, timestamptz, interval, uuid, interval) IS 'Takes the lease on the person of a user whose password may be carried over; no person when it may not.';

CREATE FUNCTION carry_over_check(p_user uuid, p_person uuid, p_lease uuid, p_password_changed_at timestamptz,
    p_now timestamptz) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    u users%ROWTYPE;
    v_result boolean;
BEGIN
    SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
    v_result := u.kanidm_user_id = p_person AND enrolment_pending(u)
        AND NOT u.must_change_password AND NOT coalesce(u.locked_until > p_now, false)
        AND u.password_changed_at IS NOT DISTINCT FROM p_password_changed_at
        AND NOT EXISTS (SELECT FROM user_totp t WHERE t.user_id = p_user AND t.confirmed_at IS NOT NULL)
        AND EXISTS (SELECT FROM kanidm_enrolments e
            WHERE e.person_id = p_person AND e.lease_id = p_lease AND e.lease_until > clock_timestamp());
    PERFORM session_narrow(v_scope);
    RETURN coalesce(v_result, false);
END
$$;
COMMENT ON FUNCTION carry_over_check(uuid, uuid, uuid, timestamptz, timestamptz) IS 'Whether the password may still be carried over: asked again when only the last step is left.';

CREATE FUNCTION carry_over_end(p_person uuid, p_lease uuid, p_outcome text, p_now timestamptz, p_event jsonb,
    p_personal bytea, p_mail jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    PERFORM FROM users u WHERE u.kanidm_user_id = p_person FOR NO KEY UPDATE;
    IF p_outcome IN ('done', 'credential') THEN
        UPDATE kanidm_enrolments e SET credential_seen_at = coalesce(e.credential_seen_at, p_now)
            WHERE e.person_id = p_person;
    END IF;
    UPDATE kanidm_enrolments e SET lease_id = NULL, lease_until = NULL, carry_over_at = p_now,
            carry_over_outcome = p_outcome
        WHERE e.person_id = p_person AND e.lease_id = p_lease;
    IF p_event IS NOT NULL AND jsonb_typeof(p_event) = 'object' THEN
        PERFORM audit_record(p_event, p_personal);
    END IF;
    IF p_outcome = 'done' THEN
        PERFORM mail_enqueue(p_mail);
    END IF;
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION carry_over_end(uuid, uuid, text, timestamptz, jsonb, bytea, jsonb) IS 'Writes down how carrying a password over ended, and gives the lease back.';

CREATE FUNCTION invitations_tidy(p_now timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
BEGIN
    DELETE FROM invitations i WHERE i.user_id IN (
        SELECT x.user_id FROM invitations x WHERE x.expires_at <= p_now LIMIT 10000 FOR UPDATE SKIP LOCKED);
    UPDATE kanidm_enrolments e SET link = NULL WHERE e.person_id IN (
        SELECT x.person_id FROM kanidm_enrolments x WHERE x.link IS NOT NULL AND x.link_until <= clock_timestamp()
        LIMIT 10000 FOR UPDATE SKIP LOCKED);
    PERFORM session_narrow(v_scope);
END
$$;
COMMENT ON FUNCTION invitations_tidy(timestamptz) IS 'Removes invitations and sealed reset links that have lapsed; at most 10,000 of each.';
CREATE INDEX idx_kanidm_enrolments_link ON kanidm_enrolments (link_until) WHERE link IS NOT NULL;

REVOKE ALL ON FUNCTION invitations_void(), invitations_void_factor(), invitations_void_enrolled(),
    enrolment_pending(users), enrolment_tenant(uuid, jsonb),
    invitation_offer(text, boolean, uuid, timestamptz, jsonb, bytea), invitation_find(bytea, timestamptz),
    enrolment_begin(uuid, uuid, boolean, timestamptz, uuid, interval), enrolment_intend(uuid, uuid, uuid, interval),
    enrolment_minted(uuid, uuid, uuid, uuid, uuid, bytea, interval, timestamptz, jsonb, bytea),
    enrolment_repeat(uuid, uuid, uuid, uuid, uuid, timestamptz, jsonb, bytea),
    enrolment_release(uuid, uuid, uuid), enrolment_credential(uuid, uuid, timestamptz),
    carry_over_begin(uuid, bigint, jsonb, timestamptz, interval, uuid, interval),
    carry_over_check(uuid, uuid, uuid, timestamptz, timestamptz),
    carry_over_end(uuid, uuid, text, timestamptz, jsonb, bytea, jsonb), invitations_tidy(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION invitation_offer(text, boolean, uuid, timestamptz, jsonb, bytea),
    invitation_find(bytea, timestamptz), enrolment_begin(uuid, uuid, boolean, timestamptz, uuid, interval),
    enrolment_intend(uuid, uuid, uuid, interval),
    enrolment_minted(uuid, uuid, uuid, uuid, uuid, bytea, interval, timestamptz, jsonb, bytea),
    enrolment_repeat(uuid, uuid, uuid, uuid, uuid, timestamptz, jsonb, bytea),
    enrolment_release(uuid, uuid, uuid), enrolment_credential(uuid, uuid, timestamptz),
    carry_over_begin(uuid, bigint, jsonb, timestamptz, interval, uuid, interval),
    carry_over_check(uuid, uuid, uuid, timestamptz, timestamptz),
    carry_over_end(uuid, uuid, text, timestamptz, jsonb, bytea, jsonb), invitations_tidy(timestamptz) TO sidle_app;
