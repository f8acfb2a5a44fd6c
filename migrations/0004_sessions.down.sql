DROP TABLE refresh_tokens, sessions, signing_keys;
