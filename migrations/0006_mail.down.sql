DROP TABLE mail_outbox;
DROP TYPE new_message;
