DROP TABLE audit_subject_keys, audit_events, audit_head, audit_inbox;
DROP TYPE prepared_event;
