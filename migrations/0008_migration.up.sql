-- Imports, migration plans, migrations to Kanidm and their items.
--
-- A plan is what a caller reviews; a migration executes that plan. Both hold one item for each user. What an item
-- intends is written before Kanidm is asked for anything, so that after a crash nothing has to be guessed.

CREATE TABLE imports (
    import_id     uuid PRIMARY KEY,
    source        text NOT NULL,
    principal_id  uuid NOT NULL,
    request_id    uuid NOT NULL,
    row_count     bigint NOT NULL,
    accepted      bigint NOT NULL,
    with_remarks  bigint NOT NULL,
    already_there bigint NOT NULL,
    refused       bigint NOT NULL,
    reasons       jsonb NOT NULL,
    hashes        jsonb NOT NULL,
    digest        bytea NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT imports_counts_check CHECK (accepted + already_there + refused = row_count AND with_remarks <= accepted),
    CONSTRAINT imports_digest_check CHECK (octet_length(digest) = 32)
);
CREATE UNIQUE INDEX imports_request_key ON imports (principal_id, request_id);
COMMENT ON TABLE imports IS 'Imports of legacy users, each one transaction.';
COMMENT ON COLUMN imports.import_id IS 'UUIDv7 of the import.';
COMMENT ON COLUMN imports.source IS 'System that the rows came from, as the caller names it.';
COMMENT ON COLUMN imports.principal_id IS 'User or service account that imported.';
COMMENT ON COLUMN imports.request_id IS 'request_id of the call: a repeat with the same rows gets this summary again.';
COMMENT ON COLUMN imports.row_count IS 'Rows that arrived.';
COMMENT ON COLUMN imports.accepted IS 'Rows that became users.';
COMMENT ON COLUMN imports.with_remarks IS 'Accepted rows with remarks.';
COMMENT ON COLUMN imports.already_there IS 'Rows that an earlier import had already created.';
COMMENT ON COLUMN imports.refused IS 'Rows refused.';
COMMENT ON COLUMN imports.reasons IS 'How often each finding was made: object of counts by reason.';
COMMENT ON COLUMN imports.hashes IS 'Accepted hashes: list of kind, cost and count.';
COMMENT ON COLUMN imports.digest IS 'SHA-256 over the mapping and all rows.';
COMMENT ON COLUMN imports.created_at IS 'When it was imported.';
ALTER TABLE imports ENABLE ROW LEVEL SECURITY;
ALTER TABLE imports FORCE ROW LEVEL SECURITY;
CREATE POLICY imports_scope ON imports USING ((SELECT sidle_platform()));
GRANT SELECT, INSERT ON imports TO sidle_app;

CREATE TABLE migration_plans (
    plan_id         uuid PRIMARY KEY,
    tenant_id       uuid REFERENCES tenants,
    cohort          jsonb NOT NULL,
    digest          bytea NOT NULL,
    total           bigint NOT NULL,
    will_be_created bigint NOT NULL,
    needs_review    bigint NOT NULL,
    will_be_refused bigint NOT NULL,
    reasons         jsonb NOT NULL,
    hashes          jsonb NOT NULL,
    names_derived   bigint NOT NULL,
    created_by      uuid NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz NOT NULL,
    CONSTRAINT migration_plans_total_check CHECK (will_be_created + needs_review + will_be_refused = total),
    CONSTRAINT migration_plans_digest_check CHECK (octet_length(digest) = 32)
);
CREATE INDEX idx_migration_plans_expires_at ON migration_plans (expires_at);
COMMENT ON TABLE migration_plans IS 'What a migration would do, as it was reviewed.';
COMMENT ON COLUMN migration_plans.plan_id IS 'UUIDv7 of the plan.';
COMMENT ON COLUMN migration_plans.tenant_id IS 'Tenant, when every user of the plan belongs to one; null for a plan over several.';
COMMENT ON COLUMN migration_plans.cohort IS 'Which users were selected.';
COMMENT ON COLUMN migration_plans.digest IS 'SHA-256 over every item; a migration starts only with the digest that was reviewed.';
COMMENT ON COLUMN migration_plans.total IS 'Items.';
COMMENT ON COLUMN migration_plans.will_be_created IS 'Items whose person will be created.';
COMMENT ON COLUMN migration_plans.needs_review IS 'Items that will wait for a decision.';
COMMENT ON COLUMN migration_plans.will_be_refused IS 'Items bound to fail.';
COMMENT ON COLUMN migration_plans.reasons IS 'How many items have each reason: object of counts.';
COMMENT ON COLUMN migration_plans.hashes IS 'The users'' password hashes: list of kind, cost and count.';
COMMENT ON COLUMN migration_plans.names_derived IS 'Items whose Kanidm name is not the username.';
COMMENT ON COLUMN migration_plans.created_by IS 'User or service account that planned.';
COMMENT ON COLUMN migration_plans.created_at IS 'When the plan was made.';
COMMENT ON COLUMN migration_plans.expires_at IS 'When it can no longer be started.';
ALTER TABLE migration_plans ENABLE ROW LEVEL SECURITY;
ALTER TABLE migration_plans FORCE ROW LEVEL SECURITY;
CREATE POLICY migration_plans_scope ON migration_plans
    USING ((SELECT sidle_platform()) OR tenant_id = (SELECT sidle_tenant()));
-- Plans are never changed; DELETE is for the purge of expired ones.
GRANT SELECT, INSERT, DELETE ON migration_plans TO sidle_app;

CREATE TABLE migration_plan_items (
    plan_id             uuid NOT NULL REFERENCES migration_plans ON DELETE CASCADE,
    ordinal             integer NOT NULL,
    item_id             uuid NOT NULL,
    user_id             uuid NOT NULL REFERENCES users,
    tenant_id           uuid NOT NULL REFERENCES tenants,
    user_version        bigint NOT NULL,
    user_rights_version bigint NOT NULL DEFAULT 1,
    kanidm_name         text NOT NULL,
    display_name        text NOT NULL,
    mail                text NOT NULL,
    is_admin            boolean NOT NULL,
    group_names         text[] NOT NULL,
    forecast            text NOT NULL,
    reason              text,
    PRIMARY KEY (plan_id, ordinal),
    CONSTRAINT migration_plan_items_forecast_check CHECK (forecast IN ('will_be_created', 'needs_review', 'will_be_refused')),
    CONSTRAINT migration_plan_items_reason_check CHECK ((reason IS NULL) = (forecast = 'will_be_created'))
);
CREATE UNIQUE INDEX migration_plan_items_user_key ON migration_plan_items (plan_id, user_id);
COMMENT ON TABLE migration_plan_items IS 'What a plan intends for each user.';
COMMENT ON COLUMN migration_plan_items.plan_id IS 'The plan.';
COMMENT ON COLUMN migration_plan_items.ordinal IS 'Number in the plan, from 1; items are processed in this order.';
COMMENT ON COLUMN migration_plan_items.item_id IS 'UUIDv7 of the item, the same in the migration.';
COMMENT ON COLUMN migration_plan_items.user_id IS 'The user, and the uuid of the person to be created.';
COMMENT ON COLUMN migration_plan_items.tenant_id IS 'The user''s home tenant.';
COMMENT ON COLUMN migration_plan_items.user_version IS 'Version of the user that the plan was made from.';
COMMENT ON COLUMN migration_plan_items.user_rights_version IS 'Version of the user''s rights that the plan was made from.';
COMMENT ON COLUMN migration_plan_items.kanidm_name IS 'Name of the person to be created.';
COMMENT ON COLUMN migration_plan_items.display_name IS 'Display name of the person to be created.';
COMMENT ON COLUMN migration_plan_items.mail IS 'Address of the person to be created.';
COMMENT ON COLUMN migration_plan_items.is_admin IS 'Whether the person joins the home tenant''s group of administrators as well as that of users.';
COMMENT ON COLUMN migration_plan_items.group_names IS 'Names of the groups that the person joins, for display.';
COMMENT ON COLUMN migration_plan_items.forecast IS 'will_be_created, needs_review or will_be_refused.';
COMMENT ON COLUMN migration_plan_items.reason IS 'Reason of the forecast, unless the person will be created.';
ALTER TABLE migration_plan_items ENABLE ROW LEVEL SECURITY;
ALTER TABLE migration_plan_items FORCE ROW LEVEL SECURITY;
CREATE POLICY migration_plan_items_scope ON migration_plan_items
    USING ((SELECT sidle_platform()) OR tenant_id = (SELECT sidle_tenant()));
GRANT SELECT, INSERT, DELETE ON migration_plan_items TO sidle_app;

CREATE TABLE migrations (
    migration_id  uuid PRIMARY KEY,
    kind          text NOT NULL,
    state         text NOT NULL,
    plan_id       uuid REFERENCES migration_plans ON DELETE SET NULL,
    tenant_id     uuid REFERENCES tenants,
    total         bigint NOT NULL,
    pending       bigint NOT NULL,
    done          bigint NOT NULL DEFAULT 0,
    failed        bigint NOT NULL DEFAULT 0,
    skipped       bigint NOT NULL DEFAULT 0,
    needs_review  bigint NOT NULL DEFAULT 0,
    step          bigint NOT NULL DEFAULT 0,
    started_by    uuid NOT NULL,
    lease_owner   uuid,
    lease_until   timestamptz,
    lease_epoch   bigint NOT NULL DEFAULT 0,
    waiting_for   text,
    waiting_since timestamptz,
    waits         integer NOT NULL DEFAULT 0,
    unclear       integer NOT NULL DEFAULT 0,
    unclear_since timestamptz,
    retry_at      timestamptz,
    taken_up_at   timestamptz,
    progressed_at timestamptz,
    ended_at      timestamptz,
    version       bigint NOT NULL DEFAULT 1,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT migrations_kind_check CHECK (kind IN ('bulk', 'at_login', 'rollback')),
    CONSTRAINT migrations_state_check CHECK (state IN ('pending', 'running', 'paused', 'cancelling', 'cancelled', 'completed')),
    CONSTRAINT migrations_waiting_for_check CHECK (waiting_for IN ('kanidm_unavailable', 'kanidm_access_denied',
        'kanidm_too_slow', 'kanidm_failing', 'kanidm_answers_unclear', 'tenant_group_deleted')),
    CONSTRAINT migrations_waiting_check CHECK ((waiting_for IS NULL) = (waiting_since IS NULL)),
    CONSTRAINT migrations_ended_check CHECK ((ended_at IS NOT NULL) = (state IN ('cancelled', 'completed'))),
    -- The counts that watchers rely on are enforced here, for every writer.
    CONSTRAINT migrations_counts_check CHECK (pending + done + failed + skipped = total AND needs_review <= failed
        AND pending >= 0 AND done >= 0 AND failed >= 0 AND skipped >= 0 AND needs_review >= 0),
    CONSTRAINT migrations_completed_check CHECK (state NOT IN ('cancelled', 'completed') OR pending = 0)
);
CREATE UNIQUE INDEX migrations_plan_key ON migrations (plan_id) WHERE plan_id IS NOT NULL;
CREATE INDEX idx_migrations_open ON migrations (lease_until) WHERE state IN ('pending', 'running', 'cancelling');
COMMENT ON TABLE migrations IS 'Runs of the migration engine.';
COMMENT ON COLUMN migrations.migration_id IS 'UUIDv7 of the migration.';
COMMENT ON COLUMN migrations.kind IS 'bulk (from a plan), at_login (users as they sign in) or rollback.';
COMMENT ON COLUMN migrations.state IS 'pending, running, paused, cancelling, cancelled or completed.';
COMMENT ON COLUMN migrations.plan_id IS 'Plan that it came from; null for other kinds, and once the plan was purged.';
COMMENT ON COLUMN migrations.tenant_id IS 'Tenant, when every user belongs to one.';
COMMENT ON COLUMN migrations.total IS 'Items: pending + done + failed + skipped.';
COMMENT ON COLUMN migrations.pending IS 'Items that are not finished.';
COMMENT ON COLUMN migrations.done IS 'Items that are done.';
COMMENT ON COLUMN migrations.failed IS 'Items that failed or wait for a decision.';
COMMENT ON COLUMN migrations.skipped IS 'Items left alone.';
COMMENT ON COLUMN migrations.needs_review IS 'Those of the failed that wait for a decision.';
COMMENT ON COLUMN migrations.step IS 'Number of the last progress step; each is one audit event.';
COMMENT ON COLUMN migrations.started_by IS 'User or service account that started it.';
COMMENT ON COLUMN migrations.lease_owner IS 'Replica that holds the lease.';
COMMENT ON COLUMN migrations.lease_until IS 'When the lease lapses, by the database''s clock.';
COMMENT ON COLUMN migrations.lease_epoch IS 'Counts how often the lease was taken; writes of an earlier holder are refused by it.';
COMMENT ON COLUMN migrations.waiting_for IS 'Why it cannot continue at present: kanidm_unavailable, kanidm_access_denied, kanidm_too_slow, kanidm_failing, kanidm_answers_unclear or tenant_group_deleted. Kept when the migration stopped for that reason.';
COMMENT ON COLUMN migrations.waiting_since IS 'Since when it cannot continue.';
COMMENT ON COLUMN migrations.waits IS 'How often in a row it was delayed; the intervals grow with it.';
COMMENT ON COLUMN migrations.unclear IS 'How often in a row none of Kanidm''s answers could be understood; after a bounded number the migration stops.';
COMMENT ON COLUMN migrations.unclear_since IS 'Since when none of Kanidm''s answers could be understood; null while unclear is 0.';
COMMENT ON COLUMN migrations.retry_at IS 'No replica takes its lease before; null when it was not delayed.';
COMMENT ON COLUMN migrations.taken_up_at IS 'When a replica first took its lease.';
COMMENT ON COLUMN migrations.progressed_at IS 'When items last changed.';
COMMENT ON COLUMN migrations.ended_at IS 'When it ended.';
COMMENT ON COLUMN migrations.version IS 'Counts changes of state; the etag.';
COMMENT ON COLUMN migrations.created_at IS 'When it was started.';
COMMENT ON COLUMN migrations.updated_at IS 'When its state changed last.';
-- Not for progress: only an administrator's decision makes the etag of a migration stale.
CREATE TRIGGER migrations_touch BEFORE UPDATE OF state ON migrations FOR EACH ROW EXECUTE FUNCTION sidle_touch();
ALTER TABLE migrations ENABLE ROW LEVEL SECURITY;
ALTER TABLE migrations FORCE ROW LEVEL SECURITY;
CREATE POLICY migrations_scope ON migrations
    USING ((SELECT sidle_platform()) OR tenant_id = (SELECT sidle_tenant()));
GRANT SELECT, INSERT, UPDATE ON migrations TO sidle_app;

CREATE TABLE migration_items (
    item_id             uuid PRIMARY KEY,
    migration_id        uuid NOT NULL REFERENCES migrations,
    ordinal             integer NOT NULL,
    user_id             uuid NOT NULL REFERENCES users,
    tenant_id           uuid NOT NULL REFERENCES tenants,
    user_version        bigint NOT NULL,
    user_rights_version bigint NOT NULL DEFAULT 1,
    kanidm_name         text NOT NULL,
    display_name        text NOT NULL,
    mail                text NOT NULL,
    is_admin            boolean NOT NULL,
    group_names         text[] NOT NULL,
    state               text NOT NULL,
    reason              text,
    attempts            integer NOT NULL DEFAULT 0,
    intent_recorded_at  timestamptz,
    version             bigint NOT NULL DEFAULT 1,
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT migration_items_state_check CHECK (state IN ('pending', 'intent_recorded', 'created', 'grouped', 'linked',
        'failed', 'skipped', 'needs_review', 'rolled_back')),
    CONSTRAINT migration_items_reason_check CHECK ((reason IS NOT NULL) = (state IN ('failed', 'skipped', 'needs_review'))),
    -- No person is created without a recorded intent.
    CONSTRAINT migration_items_intent_check CHECK (intent_recorded_at IS NOT NULL OR state NOT IN ('intent_recorded', 'created', 'grouped', 'linked'))
);
CREATE UNIQUE INDEX migration_items_ordinal_key ON migration_items (migration_id, ordinal);
-- A user is in one unfinished migration at most, so that two can never create two persons.
CREATE UNIQUE INDEX migration_items_open_user_key ON migration_items (user_id)
    WHERE state IN ('pending', 'intent_recorded', 'created', 'grouped');
CREATE INDEX idx_migration_items_open ON migration_items (migration_id, ordinal)
    WHERE state IN ('pending', 'intent_recorded', 'created', 'grouped');
CREATE INDEX idx_migration_items_reason ON migration_items (migration_id, reason, ordinal) WHERE reason IS NOT NULL;
CREATE INDEX idx_migration_items_user ON migration_items (user_id);
-- Two migrations never intend one name for two users: the later plan is stale.
CREATE UNIQUE INDEX migration_items_open_name_key ON migration_items (kanidm_name)
    WHERE state IN ('pending', 'intent_recorded', 'created', 'grouped');
CREATE INDEX idx_migration_items_name ON migration_items (kanidm_name)
    WHERE state IN ('pending', 'intent_recorded', 'created', 'grouped', 'linked');
COMMENT ON TABLE migration_items IS 'One user in a migration: a state machine from pending to linked.';
COMMENT ON COLUMN migration_items.item_id IS 'UUIDv7 of the item, the same as in the plan.';
COMMENT ON COLUMN migration_items.migration_id IS 'The migration.';
COMMENT ON COLUMN migration_items.ordinal IS 'Number in the migration, from 1.';
COMMENT ON COLUMN migration_items.user_id IS 'The user, and the uuid of the person.';
COMMENT ON COLUMN migration_items.tenant_id IS 'The user''s home tenant.';
COMMENT ON COLUMN migration_items.user_version IS 'Version of the user that the intent was made from; a changed user is not migrated.';
COMMENT ON COLUMN migration_items.user_rights_version IS 'Version of the user''s rights that the intent was made from; a user whose rights have changed is not migrated.';
COMMENT ON COLUMN migration_items.kanidm_name IS 'Name of the person.';
COMMENT ON COLUMN migration_items.display_name IS 'Display name of the person.';
COMMENT ON COLUMN migration_items.mail IS 'Address of the person.';
COMMENT ON COLUMN migration_items.is_admin IS 'Whether the person joins the home tenant''s group of administrators as well as that of users.';
COMMENT ON COLUMN migration_items.group_names IS 'Names of the groups that the person joins, for display.';
COMMENT ON COLUMN migration_items.state IS 'pending, intent_recorded, created, grouped, linked, failed, skipped, needs_review or rolled_back.';
COMMENT ON COLUMN migration_items.reason IS 'Why it failed, was skipped or needs review.';
COMMENT ON COLUMN migration_items.attempts IS 'How often it was tried.';
COMMENT ON COLUMN migration_items.intent_recorded_at IS 'When the intent to create the person was first recorded; an existing person is adopted only if the intent is older.';
COMMENT ON COLUMN migration_items.version IS 'Counts changes; the etag.';
COMMENT ON COLUMN migration_items.created_at IS 'When the item was made.';
COMMENT ON COLUMN migration_items.updated_at IS 'When it changed last.';
CREATE TRIGGER migration_items_touch BEFORE UPDATE ON migration_items FOR EACH ROW EXECUTE FUNCTION sidle_touch();
ALTER TABLE migration_items ENABLE ROW LEVEL SECURITY;
ALTER TABLE migration_items FORCE ROW LEVEL SECURITY;
CREATE POLICY migration_items_scope ON migration_items
    USING ((SELECT sidle_platform()) OR tenant_id = (SELECT sidle_tenant()));
GRANT SELECT, INSERT, UPDATE ON migration_items TO sidle_app;
