-- The audit log.
--
-- A writer puts an event without a position into audit_inbox, in the transaction of the change that it records. The
-- sequencer, which is the replica that holds the lock on audit_head, moves committed rows to audit_events and numbers
-- them without gaps. So a reader that has seen position N never misses an event that was written earlier and committed
-- later.

CREATE TABLE audit_inbox (
    inbox_id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xact_id          xid8 NOT NULL DEFAULT pg_current_xact_id(),
    event_id         uuid NOT NULL,
    event_type       text NOT NULL,
    outcome          text NOT NULL,
    reason           text,
    occurred_at      timestamptz NOT NULL,
    tenant_id        uuid,
    actor_kind       text NOT NULL,
    actor_id         uuid,
    target_kind      text,
    target_id        text,
    session_id       uuid,
    correlation_id   uuid,
    request_id       uuid,
    source           text,
    details          jsonb NOT NULL,
    origin_subject   uuid,
    personal_subject uuid,
    personal_sealed  bytea,
    -- What is refused here is refused in the writer's transaction, and cannot hold up the log later.
    CONSTRAINT audit_inbox_event_type_check CHECK (event_type ~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){1,3}$' AND length(event_type) <= 100),
    CONSTRAINT audit_inbox_ext_check CHECK ((source IS NOT NULL) = (event_type LIKE 'ext.%')),
    CONSTRAINT audit_inbox_outcome_check CHECK (outcome IN ('success', 'refused', 'failed')),
    CONSTRAINT audit_inbox_reason_check CHECK (reason ~ '^[a-z][a-z0-9_]*$' AND length(reason) <= 64),
    CONSTRAINT audit_inbox_actor_kind_check CHECK (actor_kind IN ('user', 'service_account', 'system', 'anonymous')),
    CONSTRAINT audit_inbox_actor_check CHECK ((actor_id IS NOT NULL) = (actor_kind IN ('user', 'service_account'))),
    CONSTRAINT audit_inbox_target_check CHECK ((target_kind IS NULL) = (target_id IS NULL) AND length(target_kind) <= 64 AND length(target_id) <= 200),
    CONSTRAINT audit_inbox_source_check CHECK (length(source) <= 100),
    CONSTRAINT audit_inbox_details_check CHECK (jsonb_typeof(details) = 'object' AND length(details::text) <= 65536),
    CONSTRAINT audit_inbox_personal_check CHECK (personal_sealed IS NULL OR (origin_subject IS NOT NULL AND personal_subject IS NOT NULL))
);
CREATE INDEX idx_audit_inbox_xact ON audit_inbox (xact_id, inbox_id);
COMMENT ON TABLE audit_inbox IS 'Events that were written with their change and have no position yet; normally emptied within milliseconds.';
COMMENT ON COLUMN audit_inbox.inbox_id IS 'Order of writing: an event written after the commit of another''s transaction has the higher number.';
COMMENT ON COLUMN audit_inbox.xact_id IS 'Transaction that wrote it. It has its id before it draws an inbox_id: see audit_waiting.';
COMMENT ON COLUMN audit_inbox.event_id IS 'UUIDv7 of the event.';
COMMENT ON COLUMN audit_inbox.event_type IS 'What happened: domain.verb. The prefix ext. is for events of other services.';
COMMENT ON COLUMN audit_inbox.outcome IS 'success, refused or failed.';
COMMENT ON COLUMN audit_inbox.reason IS 'Why it was refused or failed: one enumerated word, never free text.';
COMMENT ON COLUMN audit_inbox.occurred_at IS 'When it happened, by the writer''s clock.';
COMMENT ON COLUMN audit_inbox.tenant_id IS 'Tenant that it belongs to; null for events of the platform.';
COMMENT ON COLUMN audit_inbox.actor_kind IS 'user, service_account, system or anonymous.';
COMMENT ON COLUMN audit_inbox.actor_id IS 'User or service account that acted; null for the other kinds.';
COMMENT ON COLUMN audit_inbox.target_kind IS 'Kind of the resource that was acted on.';
COMMENT ON COLUMN audit_inbox.target_id IS 'Id of that resource.';
COMMENT ON COLUMN audit_inbox.session_id IS 'Session that acted.';
COMMENT ON COLUMN audit_inbox.correlation_id IS 'Correlation id of the call.';
COMMENT ON COLUMN audit_inbox.request_id IS 'request_id of the call, if it carried one.';
COMMENT ON COLUMN audit_inbox.source IS 'Service that reported the event; null for Sidle''s own.';
COMMENT ON COLUMN audit_inbox.details IS 'Facts without personal data: ids, counts, digests, enumerated words.';
COMMENT ON COLUMN audit_inbox.origin_subject IS 'Subject of the address and user agent: the actor, or a pseudonym where none is known.';
COMMENT ON COLUMN audit_inbox.personal_subject IS 'Subject of the other personal data: a user, or a pseudonym where no user is known.';
COMMENT ON COLUMN audit_inbox.personal_sealed IS 'Origin and personal data, sealed under the service''s keys until the event gets its position.';
ALTER TABLE audit_inbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_inbox FORCE ROW LEVEL SECURITY;
CREATE POLICY audit_inbox_scope ON audit_inbox USING ((SELECT sidle_platform()));
-- A tenant's transaction writes events of that tenant or of the platform, and cannot read even those back.
CREATE POLICY audit_inbox_write ON audit_inbox FOR INSERT
    WITH CHECK (sidle_tenant() IS NOT NULL AND (tenant_id IS NULL OR tenant_id = sidle_tenant()));
GRANT SELECT, INSERT, DELETE ON audit_inbox TO sidle_app;

CREATE TYPE prepared_event AS (
    event    jsonb,
    personal bytea
);
COMMENT ON TYPE prepared_event IS 'An event that is ready to be recorded, keyed by the column names of audit_inbox, and its sealed personal data.';

CREATE TABLE audit_head (
    singleton   boolean PRIMARY KEY DEFAULT true,
    position    bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    newest_id   bigint NOT NULL DEFAULT 0,
    drained_id  bigint NOT NULL DEFAULT 0,
    drained_at  pg_snapshot NOT NULL DEFAULT pg_current_snapshot(),
    drained_by  xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT audit_head_singleton_check CHECK (singleton),
    CONSTRAINT audit_head_drained_check CHECK (drained_id <= newest_id)
) WITH (fillfactor = 10);
-- The row is written with every batch. While a long transaction elsewhere keeps its dead versions from being removed,
-- the newest one is found at the end of this index, instead of by reading them all.
CREATE UNIQUE INDEX audit_head_position_key ON audit_head (position);
COMMENT ON TABLE audit_head IS 'The end of the log, one row. Its lock lets one replica at a time give positions.';
COMMENT ON COLUMN audit_head.singleton IS 'Always true: there is one row.';
COMMENT ON COLUMN audit_head.position IS 'Position of the newest event; 0 before the first.';
COMMENT ON COLUMN audit_head.recorded_at IS 'When the newest event got its position.';
COMMENT ON COLUMN audit_head.newest_id IS 'Highest inbox_id of an event that got a position.';
COMMENT ON COLUMN audit_head.drained_id IS 'Up to this inbox_id every event has its position, except those of transactions that were in progress at drained_at; see audit_waiting.';
COMMENT ON COLUMN audit_head.drained_at IS 'Snapshot in which that was determined.';
COMMENT ON COLUMN audit_head.drained_by IS 'Transaction that determined it; it began after the last event up to drained_id had been written.';
INSERT INTO audit_head (position, recorded_at) VALUES (0, now());
ALTER TABLE audit_head ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_head FORCE ROW LEVEL SECURITY;
CREATE POLICY audit_head_scope ON audit_head USING ((SELECT sidle_platform()));
-- The length of the log reveals nothing about a tenant or a user, and a tenant's stream must know its current end.
CREATE POLICY audit_head_read ON audit_head FOR SELECT USING ((SELECT sidle_tenant()) IS NOT NULL);
GRANT SELECT, UPDATE (position, recorded_at, newest_id, drained_id, drained_at, drained_by) ON audit_head TO sidle_app;

CREATE TABLE audit_events (
    position         bigint PRIMARY KEY,
    event_id         uuid NOT NULL,
    event_type       text NOT NULL,
    outcome          text NOT NULL,
    reason           text,
    occurred_at      timestamptz NOT NULL,
    recorded_at      timestamptz NOT NULL,
    tenant_id        uuid,
    actor_kind       text NOT NULL,
    actor_id         uuid,
    target_kind      text,
    target_id        text,
    session_id       uuid,
    correlation_id   uuid,
    request_id       uuid,
    source           text,
    details          jsonb NOT NULL,
    origin_state     text NOT NULL,
    origin_subject   uuid,
    origin_sealed    bytea,
    personal_state   text NOT NULL,
    personal_subject uuid,
    personal_sealed  bytea,
    leaf             bytea NOT NULL,
    leaf_hash        bytea NOT NULL,
    CONSTRAINT audit_events_position_check CHECK (position > 0),
    CONSTRAINT audit_events_origin_state_check CHECK (origin_state IN ('none', 'sealed', 'lost', 'erased')),
    CONSTRAINT audit_events_origin_check CHECK ((origin_state = 'sealed') = (origin_sealed IS NOT NULL)),
    CONSTRAINT audit_events_personal_state_check CHECK (personal_state IN ('none', 'sealed', 'lost', 'erased')),
    CONSTRAINT audit_events_personal_check CHECK ((personal_state = 'sealed') = (personal_sealed IS NOT NULL)),
    CONSTRAINT audit_events_leaf_hash_check CHECK (octet_length(leaf_hash) = 32)
);
CREATE UNIQUE INDEX audit_events_event_id_key ON audit_events (event_id);
CREATE INDEX idx_audit_events_recorded_at ON audit_events (recorded_at, position);
-- Every filter that can drive a query ends in the position, so that a page or a resumed stream is one range.
CREATE INDEX idx_audit_events_tenant ON audit_events (tenant_id, position);
CREATE INDEX idx_audit_events_type ON audit_events (event_type, position);
CREATE INDEX idx_audit_events_actor ON audit_events (actor_id, position) WHERE actor_id IS NOT NULL;
CREATE INDEX idx_audit_events_target ON audit_events (target_id, position) WHERE target_id IS NOT NULL;
CREATE INDEX idx_audit_events_session ON audit_events (session_id, position) WHERE session_id IS NOT NULL;
CREATE INDEX idx_audit_events_correlation ON audit_events (correlation_id, position) WHERE correlation_id IS NOT NULL;
COMMENT ON TABLE audit_events IS 'The audit log: events in their final order. Append-only.';
COMMENT ON COLUMN audit_events.position IS 'Number in the log: 1, 2, 3, ... without gaps, in an order that is the same for every reader.';
COMMENT ON COLUMN audit_events.event_id IS 'UUIDv7 of the event.';
COMMENT ON COLUMN audit_events.event_type IS 'What happened: domain.verb. The prefix ext. is for events of other services.';
COMMENT ON COLUMN audit_events.outcome IS 'success, refused or failed.';
COMMENT ON COLUMN audit_events.reason IS 'Why it was refused or failed: one enumerated word.';
COMMENT ON COLUMN audit_events.occurred_at IS 'When it happened, by the writer''s clock.';
COMMENT ON COLUMN audit_events.recorded_at IS 'When it got its position, by the database''s clock; never goes back from one position to the next.';
COMMENT ON COLUMN audit_events.tenant_id IS 'Tenant that it belongs to; null for events of the platform.';
COMMENT ON COLUMN audit_events.actor_kind IS 'user, service_account, system or anonymous.';
COMMENT ON COLUMN audit_events.actor_id IS 'User or service account that acted; null for the other kinds.';
COMMENT ON COLUMN audit_events.target_kind IS 'Kind of the resource that was acted on.';
COMMENT ON COLUMN audit_events.target_id IS 'Id of that resource.';
COMMENT ON COLUMN audit_events.session_id IS 'Session that acted.';
COMMENT ON COLUMN audit_events.correlation_id IS 'Correlation id of the call.';
COMMENT ON COLUMN audit_events.request_id IS 'request_id of the call, if it carried one.';
COMMENT ON COLUMN audit_events.source IS 'Service that reported the event; null for Sidle''s own.';
COMMENT ON COLUMN audit_events.details IS 'Facts without personal data: ids, counts, digests, enumerated words.';
COMMENT ON COLUMN audit_events.origin_state IS 'State of the address and user agent: none; sealed (readable while the subject''s key exists); lost (could not be opened when the event got its position); erased (the subject had been erased before).';
COMMENT ON COLUMN audit_events.origin_subject IS 'Subject of the address and user agent: the actor, or a pseudonym where none is known.';
COMMENT ON COLUMN audit_events.origin_sealed IS 'Address and user agent with the nonce of their commitment, encrypted under the subject''s key.';
COMMENT ON COLUMN audit_events.personal_state IS 'State of the other personal data: none, sealed, lost or erased, as for origin_state.';
COMMENT ON COLUMN audit_events.personal_subject IS 'Subject of the other personal data: a user, or a pseudonym where no user is known.';
COMMENT ON COLUMN audit_events.personal_sealed IS 'The other personal data with the nonce of its commitment, encrypted under the subject''s key.';
COMMENT ON COLUMN audit_events.leaf IS 'Canonical bytes of the event, which the log commits to; docs/audit-leaf.md describes them.';
COMMENT ON COLUMN audit_events.leaf_hash IS 'SHA-256 of a zero byte and the leaf, as RFC 6962 hashes leaves.';
ALTER TABLE audit_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_events FORCE ROW LEVEL SECURITY;
CREATE POLICY audit_events_scope ON audit_events
    USING ((SELECT sidle_platform()) OR tenant_id = (SELECT sidle_tenant()))
    WITH CHECK ((SELECT sidle_platform()));
-- Never UPDATE, DELETE or TRUNCATE: recorded events do not change.
GRANT SELECT, INSERT ON audit_events TO sidle_app;

CREATE TABLE audit_subject_keys (
    subject_id  uuid PRIMARY KEY,
    wrapped_key bytea,
    created_at  timestamptz NOT NULL DEFAULT now(),
    erased_at   timestamptz,
    CONSTRAINT audit_subject_keys_erased_check CHECK ((wrapped_key IS NULL) = (erased_at IS NOT NULL))
);
COMMENT ON TABLE audit_subject_keys IS 'One key per subject, which encrypts the personal data of their events. Without it that data cannot be read again.';
COMMENT ON COLUMN audit_subject_keys.subject_id IS 'The subject: a user, or a pseudonym where no user is known.';
COMMENT ON COLUMN audit_subject_keys.wrapped_key IS 'The key, sealed under the service''s keys, which are not in the database; null once erased.';
COMMENT ON COLUMN audit_subject_keys.created_at IS 'When the subject first appeared in the log.';
COMMENT ON COLUMN audit_subject_keys.erased_at IS 'When the key was destroyed. The row stays, so that personal data of the subject in later events is not kept either.';
ALTER TABLE audit_subject_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_subject_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY audit_subject_keys_scope ON audit_subject_keys USING ((SELECT sidle_platform()));
-- A tenant reads the keys that its own events need; wrapped, they decrypt nothing without the service's keys.
CREATE POLICY audit_subject_keys_read ON audit_subject_keys FOR SELECT USING ((SELECT sidle_tenant()) IS NOT NULL);
GRANT SELECT, INSERT, UPDATE (wrapped_key, erased_at) ON audit_subject_keys TO sidle_app;
