DROP FUNCTION expire_old_sessions(), kanidm_login_finish(uuid, uuid[], uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea, jsonb,
    jsonb),
    kanidm_login_take(bytea, bytea, timestamptz), kanidm_login_begin(jsonb, bytea),
    session_end_all(uuid, uuid, text, timestamptz), session_end(uuid, text, timestamptz, jsonb, bytea),
    session_kanidm_released(uuid, uuid), session_kanidm_renewed(uuid, uuid, bytea, uuid[], timestamptz, jsonb),
    session_refresh(bytea, bytea, uuid, bytea, uuid, uuid, timestamptz, interval, interval, uuid, interval, jsonb, bytea, jsonb, bytea),
    api_key_exchange(bytea, timestamptz, jsonb, bytea, jsonb, bytea),
    login_finish(uuid, text, uuid, timestamptz, jsonb, jsonb, bytea, jsonb, bytea),
    login_refuse(jsonb, bytea, jsonb), login_begin(text, timestamptz, integer, interval),
    session_sync_groups(uuid, uuid[], timestamptz, jsonb), session_close(uuid, text, timestamptz),
    session_open(uuid, uuid, text, timestamptz, jsonb), session_tenant(uuid, uuid, uuid), session_rights(uuid, uuid),
    session_narrow(text), session_widen();
DROP INDEX idx_users_tokens_valid_from, idx_service_accounts_tokens_valid_from;
DROP TABLE kanidm_logins, refresh_tokens, sessions, signing_keys;
