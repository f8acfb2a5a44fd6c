-- The outbox. A message is a row that is written in the transaction of the change that causes it, so that there is no
-- message without the change and no change without its message. Times here are the database's own, which all replicas
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
    -- Neither the address nor the content of a finished message is kept.
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
COMMENT ON COLUMN mail_outbox.kind IS 'Template of the message.';
COMMENT ON COLUMN mail_outbox.state IS 'waiting, sent, failed (refused permanently) or expired (given up).';
COMMENT ON COLUMN mail_outbox.user_id IS 'The user it is about; null when there is none.';
COMMENT ON COLUMN mail_outbox.recipient IS 'Address it is sent to; null once it is finished.';
COMMENT ON COLUMN mail_outbox.recipient_hash IS 'SHA-256 of the address''s key, by which messages to one address are counted.';
COMMENT ON COLUMN mail_outbox.parameters IS 'Parameters of the template, sealed; null once it is finished.';
COMMENT ON COLUMN mail_outbox.created_at IS 'When it was written.';
COMMENT ON COLUMN mail_outbox.expires_at IS 'When it is given up.';
COMMENT ON COLUMN mail_outbox.next_attempt_at IS 'When the next attempt is due.';
COMMENT ON COLUMN mail_outbox.attempts IS 'How often it was handed to the mail server.';
COMMENT ON COLUMN mail_outbox.lease_id IS 'Holder of the lease to send it.';
COMMENT ON COLUMN mail_outbox.lease_until IS 'When the lease lapses.';
COMMENT ON COLUMN mail_outbox.begun_at IS 'When the newest attempt began, written before the mail server is contacted.';
COMMENT ON COLUMN mail_outbox.failure IS 'Class of the newest failure.';
COMMENT ON COLUMN mail_outbox.finished_at IS 'When it was sent or given up.';
ALTER TABLE mail_outbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE mail_outbox FORCE ROW LEVEL SECURITY;
CREATE POLICY mail_outbox_scope ON mail_outbox USING ((SELECT sidle_platform()));
GRANT SELECT, INSERT, UPDATE, DELETE ON mail_outbox TO sidle_app;

-- What the functions that write messages take.
CREATE TYPE new_message AS (
    mail_id              uuid,
    kind                 text,
    user_id              uuid,
    recipient            text,
    recipient_key        text,
    parameters           bytea,
    lifetime             interval,
    per_address_and_hour integer
);
COMMENT ON TYPE new_message IS 'A message that is to be written, its parameters sealed: to the address it names or else to the user''s present one, unless that has had so many in the last hour. Null where there is no mail server.';
