DROP TABLE refresh_tokens, sessions, signing_keys;
DROP TYPE refresh_result, refresh_outcome, refresh_exchange, user_rights, tenant_outcome, new_session;
