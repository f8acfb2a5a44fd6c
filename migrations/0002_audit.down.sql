-- Takes away the audit log with everything that was recorded in it.
DROP FUNCTION audit_read(bigint, bigint, bigint, boolean, uuid, text[], uuid, text, text, uuid, uuid, text);
DROP FUNCTION audit_oldest_waiting();
DROP FUNCTION audit_waiting(bigint);
DROP FUNCTION audit_lock_head();
DROP FUNCTION audit_newest();
DROP FUNCTION audit_record(jsonb, bytea);
DROP TABLE audit_subject_keys, audit_events, audit_head, audit_inbox;
