-- Tenants, users, roles, memberships, and service accounts with their credentials; stored answers to repeated calls.

CREATE TABLE tenants (
    tenant_id   uuid PRIMARY KEY,
    slug        text NOT NULL,
    external_id text,
    name        text NOT NULL,
    brand       text,
    settings    jsonb NOT NULL DEFAULT '{}',
    status      text NOT NULL DEFAULT 'active',
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    deleted_at  timestamptz,
    -- Slugs become part of Kanidm group names, so they obey Kanidm's name rule, and leave space for prefix and suffix.
    CONSTRAINT tenants_slug_check CHECK (slug ~ '^[a-z][a-z0-9-]{0,47}$'),
    CONSTRAINT tenants_status_check CHECK (status IN ('active', 'disabled')),
    CONSTRAINT tenants_settings_check CHECK (jsonb_typeof(settings) = 'object')
);
-- Not partial: a slug is never used again, not even after its tenant is deleted.
CREATE UNIQUE INDEX tenants_slug_key ON tenants (slug);
CREATE UNIQUE INDEX tenants_external_id_key ON tenants (external_id) WHERE external_id IS NOT NULL;
-- Tenants whose users may be created by a first login through Kanidm.
CREATE INDEX idx_tenants_kanidm_first_login ON tenants (tenant_id)
    WHERE settings @> '{"sidle": {"kanidm_first_login": true}}';
COMMENT ON TABLE tenants IS 'Organisations, such as hotels or customers, whose users are isolated from one another.';
COMMENT ON COLUMN tenants.tenant_id IS 'UUIDv7 of the tenant.';
COMMENT ON COLUMN tenants.slug IS 'Short name used in Kanidm group names; never used again for another tenant.';
COMMENT ON COLUMN tenants.external_id IS 'The id that the organisation''s own systems use for the tenant.';
COMMENT ON COLUMN tenants.name IS 'Display name.';
COMMENT ON COLUMN tenants.brand IS 'Displayed brand, where it differs from the name.';
COMMENT ON COLUMN tenants.settings IS 'Free settings of the tenant, a JSON object.';
COMMENT ON COLUMN tenants.status IS 'active or disabled; users cannot sign in to a disabled tenant.';
COMMENT ON COLUMN tenants.version IS 'Counts changes; the etag.';
COMMENT ON COLUMN tenants.created_at IS 'When the tenant was created.';
COMMENT ON COLUMN tenants.updated_at IS 'When the tenant was changed last.';
COMMENT ON COLUMN tenants.deleted_at IS 'When the tenant was deleted; null while it is not.';
CREATE TRIGGER tenants_touch BEFORE UPDATE ON tenants FOR EACH ROW EXECUTE FUNCTION sidle_touch();
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY tenants_scope ON tenants
    USING ((SELECT sidle_platform()) OR tenant_id = (SELECT sidle_tenant()));
GRANT SELECT, INSERT, UPDATE ON tenants TO sidle_app;

CREATE TABLE users (
    user_id                uuid PRIMARY KEY,
    tenant_id              uuid NOT NULL REFERENCES tenants,
    email                  text NOT NULL,
    email_key              text NOT NULL,
    username               text,
    username_key           text,
    full_name              text NOT NULL DEFAULT '',
    status                 text NOT NULL DEFAULT 'active',
    auth_method            varchar(50) NOT NULL DEFAULT 'password',
    password_hash          text,
    password_cost          smallint,
    password_pepper_id     smallint,
    password_changed_at    timestamptz,
    password_version       bigint NOT NULL DEFAULT 1,
    password_rehashes      bigint NOT NULL DEFAULT 0,
    must_change_password   boolean NOT NULL DEFAULT false,
    failed_login_attempts  integer NOT NULL DEFAULT 0,
    second_factor_failures integer NOT NULL DEFAULT 0,
    second_factor_told_at  timestamptz,
    locked_until           timestamptz,
    lock_reason            text,
    lock_unrecorded_at     timestamptz,
    verified_at            timestamptz,
    verified_by_tenant     boolean NOT NULL DEFAULT false,
    last_login_at          timestamptz,
    tokens_valid_from      timestamptz,
    kanidm_user_id         uuid,
    kanidm_name            text,
    kanidm_synced_at       timestamptz,
    migration_invited_at   timestamptz,
    migration_completed_at timestamptz,
    legacy_id              text,
    import_id              uuid,
    import_source          text,
    import_digest          bytea,
    is_master_admin        boolean NOT NULL DEFAULT false,
    version                bigint NOT NULL DEFAULT 1,
    rights_version         bigint NOT NULL DEFAULT 1,
    created_at             timestamptz NOT NULL DEFAULT now(),
    updated_at             timestamptz NOT NULL DEFAULT now(),
    deleted_at             timestamptz,
    CONSTRAINT users_auth_method_check CHECK (auth_method IN ('password', 'kanidm', 'dual')),
    CONSTRAINT users_status_check CHECK (status IN ('active', 'pending_verification', 'disabled')),
    CONSTRAINT users_lock_reason_check CHECK (lock_reason IN ('too_many_failures', 'administrator')),
    CONSTRAINT users_username_check CHECK (username NOT LIKE '%@%'),
    CONSTRAINT users_username_key_check CHECK ((username IS NULL) = (username_key IS NULL)),
    -- A user whom Kanidm owns has no old hash that could authenticate them while Kanidm is down.
    CONSTRAINT users_kanidm_only_check CHECK (auth_method <> 'kanidm' OR kanidm_user_id IS NOT NULL),
    CONSTRAINT users_password_cost_check CHECK ((password_hash IS NULL) = (password_cost IS NULL)),
    CONSTRAINT users_verified_by_tenant_check CHECK (verified_at IS NOT NULL OR NOT verified_by_tenant),
    CONSTRAINT users_import_digest_check CHECK (octet_length(import_digest) = 32)
);
CREATE UNIQUE INDEX users_email_key_key ON users (email_key) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX users_username_key_key ON users (username_key) WHERE deleted_at IS NULL AND username_key IS NOT NULL;
CREATE UNIQUE INDEX users_kanidm_user_id_key ON users (kanidm_user_id) WHERE kanidm_user_id IS NOT NULL;
CREATE UNIQUE INDEX users_master_admin_key ON users (is_master_admin) WHERE is_master_admin;
CREATE INDEX idx_users_auth_method ON users (auth_method);
CREATE INDEX idx_users_migration_status ON users (tenant_id, auth_method, migration_completed_at);
CREATE INDEX idx_users_tenant ON users (tenant_id, user_id);
CREATE INDEX idx_users_password_cost ON users (password_cost) WHERE password_cost IS NOT NULL;
-- Revocations are loaded by this when a replica starts.
CREATE INDEX idx_users_tokens_valid_from ON users (tokens_valid_from) WHERE tokens_valid_from IS NOT NULL;
-- One user for each row of the old system, even after the user is changed or deleted.
CREATE UNIQUE INDEX users_import_key ON users (legacy_id, import_source) WHERE legacy_id IS NOT NULL;
CREATE INDEX idx_users_lock_unrecorded ON users (lock_unrecorded_at) WHERE lock_unrecorded_at IS NOT NULL;
COMMENT ON TABLE users IS 'The accounts of human users.';
COMMENT ON COLUMN users.user_id IS 'UUID of the user; an imported user keeps a UUID it had. Also the uuid of the Kanidm person that Sidle creates.';
COMMENT ON COLUMN users.tenant_id IS 'Home tenant: where the user signs in unless another is asked for, and whose roll-out settings apply.';
COMMENT ON COLUMN users.email IS 'E-mail address as given.';
COMMENT ON COLUMN users.email_key IS 'Key of the e-mail address, which the service makes; unique across all tenants.';
COMMENT ON COLUMN users.username IS 'Name to sign in with, without an @; optional.';
COMMENT ON COLUMN users.username_key IS 'Key of the username, which the service makes; unique across all tenants.';
COMMENT ON COLUMN users.full_name IS 'Display name.';
COMMENT ON COLUMN users.status IS 'active, pending_verification (address never verified) or disabled.';
COMMENT ON COLUMN users.auth_method IS 'How the user may sign in: password (legacy), kanidm (Kanidm only), dual (both).';
COMMENT ON COLUMN users.password_hash IS 'bcrypt hash; null for users without a password here. Removed when the migration is finalised.';
COMMENT ON COLUMN users.password_cost IS 'Cost of the bcrypt hash, kept beside it so that the highest in use is known.';
COMMENT ON COLUMN users.password_pepper_id IS 'Which pepper the password was mixed with before hashing; null for none.';
COMMENT ON COLUMN users.password_changed_at IS 'When the password was set last; null for one that was imported.';
COMMENT ON COLUMN users.password_version IS 'Counts changes of the password; a new hash of the same password is none.';
COMMENT ON COLUMN users.password_rehashes IS 'Counts new hashes of the same password. An update of the hash that does not count here counts as a change of the password.';
COMMENT ON COLUMN users.must_change_password IS 'Whether the next login must set a new password.';
COMMENT ON COLUMN users.failed_login_attempts IS 'Attempts reserved since the last success, over all authentication methods.';
COMMENT ON COLUMN users.second_factor_failures IS 'Attempts reserved at second factors since the last complete login; they make the locks longer.';
COMMENT ON COLUMN users.second_factor_told_at IS 'When the user was last notified that second factors are being guessed.';
COMMENT ON COLUMN users.locked_until IS 'Authentication with guessable secrets is refused until then.';
COMMENT ON COLUMN users.lock_reason IS 'Reason of the lock: too_many_failures or administrator.';
COMMENT ON COLUMN users.lock_unrecorded_at IS 'When an attempt led to a lock whose event is not recorded yet; null once it is, or once the attempt turned out right.';
COMMENT ON COLUMN users.verified_at IS 'When the address was verified.';
COMMENT ON COLUMN users.verified_by_tenant IS 'Whether the address counts as verified only because the tenant''s own administrators said so; neither its owner nor the platform has confirmed it.';
COMMENT ON COLUMN users.last_login_at IS 'When the user signed in last.';
COMMENT ON COLUMN users.tokens_valid_from IS 'The latest revocation of the user''s access tokens, by the database''s clock: those that do not name it or a later one are refused. Written by tokens_revoke() only.';
COMMENT ON COLUMN users.kanidm_user_id IS 'uuid of the linked Kanidm person; logins through Kanidm are matched by nothing else.';
COMMENT ON COLUMN users.kanidm_name IS 'Name the person was created with in Kanidm; for display, never for authorisation.';
COMMENT ON COLUMN users.kanidm_synced_at IS 'When the user was linked to the Kanidm person, or last compared with it.';
COMMENT ON COLUMN users.migration_invited_at IS 'When the user was invited to move to Kanidm.';
COMMENT ON COLUMN users.migration_completed_at IS 'When the user first signed in through Kanidm.';
COMMENT ON COLUMN users.legacy_id IS 'Id of the user in the table it was imported from.';
COMMENT ON COLUMN users.import_id IS 'Import that created the user.';
COMMENT ON COLUMN users.import_source IS 'System that the user was imported from; with legacy_id it recognises a row that is imported again.';
COMMENT ON COLUMN users.import_digest IS 'SHA-256 of the row as it was imported, to tell an unchanged row from a changed one.';
COMMENT ON COLUMN users.is_master_admin IS 'The first administrator; cannot be demoted, disabled or deleted. At most one.';
COMMENT ON COLUMN users.version IS 'Counts changes; the etag.';
COMMENT ON COLUMN users.rights_version IS 'Counts all changes of the user''s rights in tenants and on the platform: an item planned with other rights is not migrated.';
COMMENT ON COLUMN users.created_at IS 'When the user was created, in the old system for imported ones.';
COMMENT ON COLUMN users.updated_at IS 'When the user was changed last.';
COMMENT ON COLUMN users.deleted_at IS 'When the user was deleted; null while they are not.';
-- Only what an administrator edits counts as a change of a user: a login must not make the etag stale.
CREATE TRIGGER users_touch BEFORE UPDATE OF tenant_id, email, username, full_name, status, auth_method, kanidm_user_id,
    is_master_admin, deleted_at ON users FOR EACH ROW EXECUTE FUNCTION sidle_touch();
ALTER TABLE users ENABLE ROW LEVEL SECURITY;
ALTER TABLE users FORCE ROW LEVEL SECURITY;
CREATE POLICY users_scope ON users
    USING ((SELECT sidle_platform()) OR tenant_id = (SELECT sidle_tenant()));
GRANT SELECT, INSERT, UPDATE ON users TO sidle_app;

CREATE TABLE roles (
    role_id     uuid PRIMARY KEY,
    tenant_id   uuid REFERENCES tenants,
    name        text NOT NULL,
    description text NOT NULL DEFAULT '',
    permissions text[] NOT NULL DEFAULT '{}',
    is_platform boolean NOT NULL DEFAULT false,
    is_admin    boolean NOT NULL DEFAULT false,
    is_built_in boolean NOT NULL DEFAULT false,
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT roles_name_check CHECK (name ~ '^[A-Za-z][A-Za-z0-9_.-]{0,63}$'),
    CONSTRAINT roles_platform_check CHECK (NOT is_platform OR tenant_id IS NULL),
    -- The names of built-in roles are reserved, in any spelling: no tenant can name a role of its own so.
    CONSTRAINT roles_reserved_check CHECK (tenant_id IS NULL
        OR translate(name, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ._-', 'abcdefghijklmnopqrstuvwxyz')
            NOT IN ('systemadmin', 'superadmin', 'admin', 'user'))
);
CREATE UNIQUE INDEX roles_name_key ON roles (name) WHERE tenant_id IS NULL;
CREATE UNIQUE INDEX roles_tenant_name_key ON roles (tenant_id, name) WHERE tenant_id IS NOT NULL;
COMMENT ON TABLE roles IS 'Named lists of permissions. Data, not code: a tenant can define its own.';
COMMENT ON COLUMN roles.role_id IS 'UUID of the role.';
COMMENT ON COLUMN roles.tenant_id IS 'Tenant whose own role this is; null for one that every tenant can use.';
COMMENT ON COLUMN roles.name IS 'Name, unique within the tenant, such as HOTEL_ADMIN.';
COMMENT ON COLUMN roles.description IS 'What the role is for.';
COMMENT ON COLUMN roles.permissions IS 'Permissions the role gives; * gives all within its scope.';
COMMENT ON COLUMN roles.is_platform IS 'Whether the role applies in every tenant; such roles never come from Kanidm groups.';
COMMENT ON COLUMN roles.is_admin IS 'Whether members with this role are put into the tenant''s group of administrators in Kanidm.';
COMMENT ON COLUMN roles.is_built_in IS 'Whether the role is built in; such a role can be neither changed nor deleted.';
COMMENT ON COLUMN roles.version IS 'Counts changes; the etag.';
COMMENT ON COLUMN roles.created_at IS 'When the role was created.';
COMMENT ON COLUMN roles.updated_at IS 'When the role was changed last.';
CREATE TRIGGER roles_touch BEFORE UPDATE ON roles FOR EACH ROW EXECUTE FUNCTION sidle_touch();
ALTER TABLE roles ENABLE ROW LEVEL SECURITY;
ALTER TABLE roles FORCE ROW LEVEL SECURITY;
CREATE POLICY roles_scope ON roles
    USING ((SELECT sidle_platform()) OR tenant_id = (SELECT sidle_tenant()));
CREATE POLICY roles_shared ON roles FOR SELECT
    USING (tenant_id IS NULL AND (SELECT sidle_tenant()) IS NOT NULL);
GRANT SELECT, INSERT, UPDATE, DELETE ON roles TO sidle_app;

CREATE TABLE memberships (
    membership_id uuid PRIMARY KEY,
    tenant_id     uuid NOT NULL REFERENCES tenants,
    user_id       uuid NOT NULL REFERENCES users,
    role_id       uuid NOT NULL REFERENCES roles,
    source        text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT memberships_source_check CHECK (source IN ('local', 'kanidm', 'import'))
);
CREATE UNIQUE INDEX memberships_grant_key ON memberships (user_id, tenant_id, role_id, source);
CREATE INDEX idx_memberships_tenant ON memberships (tenant_id, user_id);
-- For the check of the foreign key when a role is deleted, and to find who has a role when it changes.
CREATE INDEX idx_memberships_role ON memberships (role_id, user_id);
COMMENT ON TABLE memberships IS 'The role that a user has in a tenant, and its source.';
COMMENT ON COLUMN memberships.membership_id IS 'UUIDv7 of the membership.';
COMMENT ON COLUMN memberships.tenant_id IS 'Tenant of the membership.';
COMMENT ON COLUMN memberships.user_id IS 'The member.';
COMMENT ON COLUMN memberships.role_id IS 'Role of the member in the tenant.';
COMMENT ON COLUMN memberships.source IS 'local (administered here), kanidm (synchronised from groups) or import (imported).';
COMMENT ON COLUMN memberships.created_at IS 'When the membership was made.';
ALTER TABLE memberships ENABLE ROW LEVEL SECURITY;
ALTER TABLE memberships FORCE ROW LEVEL SECURITY;
CREATE POLICY memberships_scope ON memberships
    USING ((SELECT sidle_platform()) OR tenant_id = (SELECT sidle_tenant()));
-- A tenant sees its own users and users of other tenants who are members of it, but changes only its own.
CREATE POLICY users_members ON users FOR SELECT
    USING (EXISTS (SELECT FROM memberships m WHERE m.user_id = users.user_id AND m.tenant_id = (SELECT sidle_tenant())));
GRANT SELECT, INSERT, DELETE ON memberships TO sidle_app;

CREATE TABLE platform_grants (
    membership_id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id       uuid NOT NULL REFERENCES users,
    role_id       uuid NOT NULL REFERENCES roles,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, role_id)
);
CREATE UNIQUE INDEX platform_grants_membership_id_key ON platform_grants (membership_id);
-- For the check of the foreign key when a role is deleted, and to find who has a role when it changes.
CREATE INDEX idx_platform_grants_role ON platform_grants (role_id, user_id);
COMMENT ON TABLE platform_grants IS 'Roles that apply in every tenant; only ever granted by an administrator.';
COMMENT ON COLUMN platform_grants.membership_id IS 'Id under which the grant is shown among the memberships.';
COMMENT ON COLUMN platform_grants.user_id IS 'The user who has the role.';
COMMENT ON COLUMN platform_grants.role_id IS 'The role, one with is_platform.';
COMMENT ON COLUMN platform_grants.created_at IS 'When it was granted.';
ALTER TABLE platform_grants ENABLE ROW LEVEL SECURITY;
ALTER TABLE platform_grants FORCE ROW LEVEL SECURITY;
CREATE POLICY platform_grants_scope ON platform_grants USING ((SELECT sidle_platform()));
GRANT SELECT, INSERT, DELETE ON platform_grants TO sidle_app;

CREATE TABLE service_accounts (
    service_account_id uuid PRIMARY KEY,
    tenant_id          uuid REFERENCES tenants,
    name               text NOT NULL,
    description        text NOT NULL DEFAULT '',
    permissions        text[] NOT NULL DEFAULT '{}',
    status             text NOT NULL DEFAULT 'active',
    tokens_valid_from  timestamptz,
    created_by         uuid REFERENCES users,
    version            bigint NOT NULL DEFAULT 1,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    deleted_at         timestamptz,
    CONSTRAINT service_accounts_status_check CHECK (status IN ('active', 'disabled')),
    CONSTRAINT service_accounts_name_check CHECK (name ~ '^[a-z][a-z0-9._-]{0,63}$')
);
CREATE UNIQUE INDEX service_accounts_name_key ON service_accounts (name) WHERE deleted_at IS NULL;
-- Revocations are loaded by this when a replica starts.
CREATE INDEX idx_service_accounts_tokens_valid_from ON service_accounts (tokens_valid_from) WHERE tokens_valid_from IS NOT NULL;
COMMENT ON TABLE service_accounts IS 'Programs that call Sidle or present tokens to other services.';
COMMENT ON COLUMN service_accounts.service_account_id IS 'UUIDv7 of the service account.';
COMMENT ON COLUMN service_accounts.tenant_id IS 'Tenant it is confined to; null for one that acts on the platform.';
COMMENT ON COLUMN service_accounts.name IS 'Unique name, for display.';
COMMENT ON COLUMN service_accounts.description IS 'What the account is for and who is responsible for it.';
COMMENT ON COLUMN service_accounts.permissions IS 'The account''s own rights; a key can only narrow them.';
COMMENT ON COLUMN service_accounts.status IS 'active or disabled.';
COMMENT ON COLUMN service_accounts.tokens_valid_from IS 'The latest revocation of the account''s access tokens, by the database''s clock: those that do not name it or a later one are refused. Written by tokens_revoke() only.';
COMMENT ON COLUMN service_accounts.created_by IS 'User who made the account.';
COMMENT ON COLUMN service_accounts.version IS 'Counts changes; the etag.';
COMMENT ON COLUMN service_accounts.created_at IS 'When the account was created.';
COMMENT ON COLUMN service_accounts.updated_at IS 'When the account was changed last.';
COMMENT ON COLUMN service_accounts.deleted_at IS 'When the account was deleted; null while it is not.';
CREATE TRIGGER service_accounts_touch BEFORE UPDATE ON service_accounts FOR EACH ROW EXECUTE FUNCTION sidle_touch();
ALTER TABLE service_accounts ENABLE ROW LEVEL SECURITY;
ALTER TABLE service_accounts FORCE ROW LEVEL SECURITY;
CREATE POLICY service_accounts_scope ON service_accounts
    USING ((SELECT sidle_platform()) OR tenant_id = (SELECT sidle_tenant()));
GRANT SELECT, INSERT, UPDATE ON service_accounts TO sidle_app;

CREATE TABLE api_keys (
    api_key_id         uuid PRIMARY KEY,
    service_account_id uuid NOT NULL REFERENCES service_accounts,
    tenant_id          uuid REFERENCES tenants,
    kind               text NOT NULL DEFAULT 'api_key',
    display_prefix     text NOT NULL,
    key_hash           bytea NOT NULL,
    description        text NOT NULL DEFAULT '',
    scopes             text[] NOT NULL DEFAULT '{}',
    expires_at         timestamptz,
    last_used_at       timestamptz,
    revoked_at         timestamptz,
    created_at         timestamptz NOT NULL DEFAULT now(),
    created_by         uuid,
    makers             uuid[] NOT NULL DEFAULT '{}',
    CONSTRAINT api_keys_key_hash_check CHECK (octet_length(key_hash) = 32),
    CONSTRAINT api_keys_kind_check CHECK (kind IN ('api_key', 'client_secret'))
);
CREATE UNIQUE INDEX api_keys_key_hash_key ON api_keys (key_hash);
CREATE INDEX idx_api_keys_service_account ON api_keys (service_account_id);
CREATE INDEX idx_api_keys_makers ON api_keys USING gin (makers) WHERE revoked_at IS NULL;
COMMENT ON TABLE api_keys IS 'Keys that service accounts exchange for short-lived access tokens.';
COMMENT ON COLUMN api_keys.api_key_id IS 'UUIDv7 of the key.';
COMMENT ON COLUMN api_keys.service_account_id IS 'Service account of the key.';
COMMENT ON COLUMN api_keys.tenant_id IS 'Tenant of the service account, repeated for row-level security.';
COMMENT ON COLUMN api_keys.kind IS 'api_key (identifies its account by itself) or client_secret (valid together with the account''s id only).';
COMMENT ON COLUMN api_keys.display_prefix IS 'First characters of the key, to recognise it by.';
COMMENT ON COLUMN api_keys.key_hash IS 'SHA-256 of the key, which has 256 random bits.';
COMMENT ON COLUMN api_keys.description IS 'What the key is used for.';
COMMENT ON COLUMN api_keys.scopes IS 'Permissions the key is limited to; empty means all of the account''s.';
COMMENT ON COLUMN api_keys.expires_at IS 'When the key stops working; null for never.';
COMMENT ON COLUMN api_keys.last_used_at IS 'When the key was exchanged last, to the minute.';
COMMENT ON COLUMN api_keys.revoked_at IS 'When the key was revoked.';
COMMENT ON COLUMN api_keys.created_at IS 'When the key was made.';
COMMENT ON COLUMN api_keys.created_by IS 'User or service account that made the key; the key is revoked when its maker is ended.';
COMMENT ON COLUMN api_keys.makers IS 'Users and service accounts whose end also ends the key: created_by and, where that is a service account, the makers of the credentials that it authenticated with. Written by a trigger.';
ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE api_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY api_keys_scope ON api_keys
    USING ((SELECT sidle_platform()) OR tenant_id = (SELECT sidle_tenant()));
GRANT SELECT, INSERT, UPDATE ON api_keys TO sidle_app;

CREATE TABLE service_account_certificates (
    ca_name            text NOT NULL,
    uri                text NOT NULL,
    service_account_id uuid NOT NULL REFERENCES service_accounts,
    tenant_id          uuid REFERENCES tenants,
    created_at         timestamptz NOT NULL,
    created_by         uuid,
    makers             uuid[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (ca_name, uri),
    CONSTRAINT service_account_certificates_ca_name_check CHECK (ca_name ~ '^[a-z][a-z0-9-]{0,63}$'),
    CONSTRAINT service_account_certificates_uri_check CHECK (length(uri) <= 2048 AND uri !~ '[*[:space:]]')
);
CREATE INDEX idx_service_account_certificates_account ON service_account_certificates (service_account_id);
CREATE INDEX idx_service_account_certificates_makers ON service_account_certificates USING gin (makers);
COMMENT ON TABLE service_account_certificates IS 'Which client certificates authenticate which service account: the exact URI in the certificate, under a named authority.';
COMMENT ON COLUMN service_account_certificates.ca_name IS 'Name of the authority in the configuration.';
COMMENT ON COLUMN service_account_certificates.uri IS 'The one URI among the certificate''s alternative names, compared byte by byte.';
COMMENT ON COLUMN service_account_certificates.service_account_id IS 'The account that the certificate authenticates.';
COMMENT ON COLUMN service_account_certificates.tenant_id IS 'Tenant of the service account, repeated for row-level security.';
COMMENT ON COLUMN service_account_certificates.created_at IS 'When it was registered.';
COMMENT ON COLUMN service_account_certificates.created_by IS 'User or service account that registered it; removed when they are ended.';
COMMENT ON COLUMN service_account_certificates.makers IS 'As api_keys.makers.';
ALTER TABLE service_account_certificates ENABLE ROW LEVEL SECURITY;
ALTER TABLE service_account_certificates FORCE ROW LEVEL SECURITY;
CREATE POLICY service_account_certificates_scope ON service_account_certificates
    USING ((SELECT sidle_platform()) OR tenant_id = (SELECT sidle_tenant()));
GRANT SELECT, INSERT, DELETE ON service_account_certificates TO sidle_app;

CREATE TABLE request_answers (
    principal_id uuid NOT NULL,
    method       text NOT NULL,
    request_id   uuid NOT NULL,
    body_digest  bytea NOT NULL,
    answer       bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (principal_id, method, request_id)
);
CREATE INDEX idx_request_answers_created_at ON request_answers (created_at);
COMMENT ON TABLE request_answers IS 'First answers to calls with a request_id, so that a repeat gets the same. Never holds a secret; kept for 24 hours.';
COMMENT ON COLUMN request_answers.principal_id IS 'Principal that called.';
COMMENT ON COLUMN request_answers.method IS 'Full name of the RPC.';
COMMENT ON COLUMN request_answers.request_id IS 'The id that the caller chose.';
COMMENT ON COLUMN request_answers.body_digest IS 'SHA-256 of the request; a repeat with another body is refused.';
COMMENT ON COLUMN request_answers.answer IS 'The encoded response.';
COMMENT ON COLUMN request_answers.created_at IS 'When the first call was answered.';
ALTER TABLE request_answers ENABLE ROW LEVEL SECURITY;
ALTER TABLE request_answers FORCE ROW LEVEL SECURITY;
CREATE POLICY request_answers_scope ON request_answers
    USING ((SELECT sidle_platform()) OR (SELECT sidle_tenant()) IS NOT NULL);
GRANT SELECT, INSERT, DELETE ON request_answers TO sidle_app;

-- Built-in roles. All but SYSTEM_ADMIN are confined to one tenant.
SELECT set_config('sidle.platform', 'on', true);
INSERT INTO roles (role_id, name, description, permissions, is_platform, is_admin, is_built_in) VALUES
    ('00000000-0000-7000-8000-000000000001', 'SYSTEM_ADMIN', 'Everything, in every tenant.', '{*}', true, false, true),
    ('00000000-0000-7000-8000-000000000002', 'super_admin', 'Everything within one tenant.', '{*}', false, true, true),
    ('00000000-0000-7000-8000-000000000003', 'admin', 'Administers the people of one tenant.',
        '{users.read,users.write,tenants.read,roles.read,memberships.write,service_accounts.read,sessions.read,sessions.revoke,audit.read,migration.read}',
        false, true, true),
    ('00000000-0000-7000-8000-000000000004', 'user', 'A member without administrative rights.', '{}', false, false, true);
SELECT set_config('sidle.platform', '', true);
