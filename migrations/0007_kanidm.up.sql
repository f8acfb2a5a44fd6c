-- Kanidm: the groups of tenants and roles, logins in progress there, the group memberships that Sidle wrote, and the
-- enrolment of persons with a first credential.

CREATE TABLE kanidm_tenant_groups (
    tenant_id         uuid NOT NULL REFERENCES tenants,
    kanidm_group_uuid uuid NOT NULL,
    kanidm_group_name text NOT NULL,
    role              text NOT NULL,
    role_id           uuid NOT NULL REFERENCES roles,
    created_at        timestamptz NOT NULL DEFAULT now(),
    confirmed_at      timestamptz,
    PRIMARY KEY (tenant_id, role),
    CONSTRAINT kanidm_tenant_groups_role_check CHECK (role IN ('member', 'admin'))
);
CREATE UNIQUE INDEX kanidm_tenant_groups_uuid_key ON kanidm_tenant_groups (kanidm_group_uuid);
COMMENT ON TABLE kanidm_tenant_groups IS 'Which Kanidm group corresponds to which tenant and role: identified by the uuid that Sidle chose before it created the group.';
COMMENT ON COLUMN kanidm_tenant_groups.tenant_id IS 'The tenant.';
COMMENT ON COLUMN kanidm_tenant_groups.kanidm_group_uuid IS 'uuid of the group in Kanidm, recorded before the group is created.';
COMMENT ON COLUMN kanidm_tenant_groups.kanidm_group_name IS 'Name the group was created with; for display, never for authorisation.';
COMMENT ON COLUMN kanidm_tenant_groups.role IS 'member for tenant_{slug}_users, admin for tenant_{slug}_admins.';
COMMENT ON COLUMN kanidm_tenant_groups.role_id IS 'Role that members of the group have in the tenant.';
COMMENT ON COLUMN kanidm_tenant_groups.created_at IS 'When the uuid was chosen.';
COMMENT ON COLUMN kanidm_tenant_groups.confirmed_at IS 'When the group was seen in Kanidm under this uuid; null until then.';
ALTER TABLE kanidm_tenant_groups ENABLE ROW LEVEL SECURITY;
ALTER TABLE kanidm_tenant_groups FORCE ROW LEVEL SECURITY;
CREATE POLICY kanidm_tenant_groups_scope ON kanidm_tenant_groups
    USING ((SELECT sidle_platform()) OR tenant_id = (SELECT sidle_tenant()));
GRANT SELECT, INSERT, UPDATE ON kanidm_tenant_groups TO sidle_app;

CREATE TABLE kanidm_logins (
    login_id      uuid PRIMARY KEY,
    purpose       text NOT NULL DEFAULT 'login',
    user_id       uuid REFERENCES users ON DELETE CASCADE,
    session_id    uuid REFERENCES sessions ON DELETE CASCADE,
    state_hash    bytea NOT NULL,
    secret_hash   bytea NOT NULL,
    nonce_hash    bytea NOT NULL,
    pkce_verifier bytea NOT NULL,
    redirect_uri  text NOT NULL,
    request       jsonb NOT NULL,
    created_at    timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL,
    CONSTRAINT kanidm_logins_purpose_check CHECK (purpose IN ('login', 'step_up', 'link')),
    CONSTRAINT kanidm_logins_session_check
        CHECK ((purpose = 'login') = (user_id IS NULL) AND (purpose = 'login') = (session_id IS NULL))
);
CREATE UNIQUE INDEX kanidm_logins_state_hash_key ON kanidm_logins (state_hash);
CREATE INDEX idx_kanidm_logins_expires_at ON kanidm_logins (expires_at);
CREATE INDEX idx_kanidm_logins_user ON kanidm_logins (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX idx_kanidm_logins_session ON kanidm_logins (session_id) WHERE session_id IS NOT NULL;
COMMENT ON TABLE kanidm_logins IS 'Logins in progress at Kanidm; a row is deleted when its login is completed.';
COMMENT ON COLUMN kanidm_logins.login_id IS 'UUIDv7 of the attempt.';
COMMENT ON COLUMN kanidm_logins.purpose IS 'login (begins a session), step_up (reauthenticates the user of a session) or link (links the person to the user of a session).';
COMMENT ON COLUMN kanidm_logins.user_id IS 'User to reauthenticate or to link; null for logins.';
COMMENT ON COLUMN kanidm_logins.session_id IS 'Session that began it, the only one that can complete it; null for logins.';
COMMENT ON COLUMN kanidm_logins.state_hash IS 'SHA-256 of the state that went through the browser.';
COMMENT ON COLUMN kanidm_logins.secret_hash IS 'SHA-256 of the secret that only the client that began the login has.';
COMMENT ON COLUMN kanidm_logins.nonce_hash IS 'SHA-256 of the nonce that the ID token must repeat.';
COMMENT ON COLUMN kanidm_logins.pkce_verifier IS 'PKCE verifier, sealed.';
COMMENT ON COLUMN kanidm_logins.redirect_uri IS 'Where Kanidm sent the browser; repeated when the code is exchanged.';
COMMENT ON COLUMN kanidm_logins.request IS 'What was asked for: tenant, audience, device, persistent.';
COMMENT ON COLUMN kanidm_logins.created_at IS 'When the login began.';
COMMENT ON COLUMN kanidm_logins.expires_at IS 'When it lapses.';
ALTER TABLE kanidm_logins ENABLE ROW LEVEL SECURITY;
ALTER TABLE kanidm_logins FORCE ROW LEVEL SECURITY;
CREATE POLICY kanidm_logins_scope ON kanidm_logins USING ((SELECT sidle_platform()));
GRANT SELECT, INSERT, DELETE ON kanidm_logins TO sidle_app;

-- Group memberships that Sidle wrote to Kanidm, recorded before Kanidm is asked, and those that it has withdrawn. A
-- group gives no right that was withdrawn: logins through Kanidm ignore the group until the row is deleted, which
-- happens only when Kanidm has confirmed that the person is not in the group any more.
CREATE TABLE kanidm_projections (
    user_id           uuid NOT NULL REFERENCES users,
    tenant_id         uuid NOT NULL REFERENCES tenants,
    kanidm_group_uuid uuid NOT NULL,
    role              text NOT NULL,
    projected_at      timestamptz NOT NULL DEFAULT now(),
    withdrawn_at      timestamptz,
    PRIMARY KEY (user_id, kanidm_group_uuid),
    CONSTRAINT kanidm_projections_role_check CHECK (role IN ('member', 'admin'))
);
CREATE INDEX idx_kanidm_projections_withdrawn ON kanidm_projections (withdrawn_at) WHERE withdrawn_at IS NOT NULL;
COMMENT ON TABLE kanidm_projections IS 'Which users'' persons Sidle put into which groups of Kanidm, and which of these memberships it has withdrawn.';
COMMENT ON COLUMN kanidm_projections.user_id IS 'The user, and the uuid of the person.';
COMMENT ON COLUMN kanidm_projections.tenant_id IS 'Tenant of the group.';
COMMENT ON COLUMN kanidm_projections.kanidm_group_uuid IS 'uuid of the group.';
COMMENT ON COLUMN kanidm_projections.role IS 'Role of the group''s members in the tenant: member or admin.';
COMMENT ON COLUMN kanidm_projections.projected_at IS 'When Sidle last intended to put the person into the group.';
COMMENT ON COLUMN kanidm_projections.withdrawn_at IS 'When the right behind it ended: from then on the group gives the user nothing; null while the right exists.';
ALTER TABLE kanidm_projections ENABLE ROW LEVEL SECURITY;
ALTER TABLE kanidm_projections FORCE ROW LEVEL SECURITY;
CREATE POLICY kanidm_projections_scope ON kanidm_projections
    USING ((SELECT sidle_platform()) OR tenant_id = (SELECT sidle_tenant()));
GRANT SELECT, INSERT, UPDATE ON kanidm_projections TO sidle_app;

-- Leases and reset links use the database's clock, which all replicas share.
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
CREATE INDEX idx_kanidm_enrolments_link ON kanidm_enrolments (link_until) WHERE link IS NOT NULL;
COMMENT ON TABLE kanidm_enrolments IS 'What is known about the credentials of persons in Kanidm, and the enrolment in progress. Kept when the link to a user is removed, so that linking again makes no second reset link.';
COMMENT ON COLUMN kanidm_enrolments.person_id IS 'uuid of the person; users.kanidm_user_id.';
COMMENT ON COLUMN kanidm_enrolments.credential_seen_at IS 'When the person was first seen to have a credential; null while none is known.';
COMMENT ON COLUMN kanidm_enrolments.link_id IS 'UUIDv7 of the newest reset link.';
COMMENT ON COLUMN kanidm_enrolments.link IS 'The reset link, sealed for this person, so that it can be handed out again; null when it never arrived or must not be handed out any more.';
COMMENT ON COLUMN kanidm_enrolments.link_until IS 'When the link stops working at the latest; no other is made before. Written before Kanidm is asked for it.';
COMMENT ON COLUMN kanidm_enrolments.lease_id IS 'Holder of the lease to give the person a credential.';
COMMENT ON COLUMN kanidm_enrolments.lease_until IS 'When the lease lapses.';
COMMENT ON COLUMN kanidm_enrolments.carry_over_at IS 'When carrying over the password was last tried.';
COMMENT ON COLUMN kanidm_enrolments.carry_over_outcome IS 'How that ended: done, credential (there was one), second_factor (Kanidm requires one), weak, refused, unavailable or dropped.';
COMMENT ON COLUMN kanidm_enrolments.mailed_at IS 'When an invitation was last mailed after a login from an unknown device.';
ALTER TABLE kanidm_enrolments ENABLE ROW LEVEL SECURITY;
ALTER TABLE kanidm_enrolments FORCE ROW LEVEL SECURITY;
CREATE POLICY kanidm_enrolments_scope ON kanidm_enrolments USING ((SELECT sidle_platform()));
-- That an invitation was mailed is written only by the function that completes a login.
GRANT SELECT, INSERT (person_id, lease_id, lease_until),
    UPDATE (credential_seen_at, link_id, link, link_until, lease_id, lease_until, carry_over_at, carry_over_outcome)
    ON kanidm_enrolments TO sidle_app;

-- What the functions take and give that invite users to Kanidm and link them to persons.
CREATE TYPE new_invitation AS (
    invitation_id uuid,
    token_hash    bytea,
    expires_at    timestamptz,
    tenant_slugs  text[],
    mail          new_message,
    mail_every    interval,
    issued        prepared_event
);
COMMENT ON TYPE new_invitation IS 'An invitation for a user who is to be invited: the tenants whose users can be invited, all where none is named, and the message that carries it, where there is mail, with its rate limit.';
CREATE TYPE person_refusal AS ENUM ('migrating', 'person_taken');
COMMENT ON TYPE person_refusal IS 'Why a person may not be linked to a user: a migration is at work on the user, or the person is somebody else''s.';
