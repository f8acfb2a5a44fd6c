DROP FUNCTION mail_enqueue(jsonb);
DROP TABLE mail_outbox;
