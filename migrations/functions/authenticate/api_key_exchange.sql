-- Decides after it has locked the account: a key that is revoked while its exchange waits for the lock is refused.
CREATE OR REPLACE FUNCTION api_key_exchange(p_key_hash bytea, p_kind text, p_account uuid, p_now timestamptz,
    p_event prepared_event, p_refused prepared_event,
    OUT outcome key_outcome, OUT service_account_id uuid, OUT tenant_id uuid, OUT permissions text[],
    OUT tokens_valid_from timestamptz, OUT expires_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    k api_keys%ROWTYPE;
    a service_accounts%ROWTYPE;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO k FROM api_keys x WHERE x.key_hash = p_key_hash;
        -- A client secret is valid together with its client id only.
        IF k.api_key_id IS NULL OR k.kind <> p_kind OR (p_account IS NOT NULL AND k.service_account_id <> p_account) THEN
            outcome := 'unknown';
            EXIT body;
        END IF;
        SELECT * INTO a FROM service_accounts x WHERE x.service_account_id = k.service_account_id FOR SHARE;
        SELECT * INTO k FROM api_keys x WHERE x.api_key_id = k.api_key_id;
        outcome := CASE
            WHEN k.revoked_at IS NOT NULL THEN 'revoked'
            WHEN k.expires_at <= p_now THEN 'expired'
            WHEN a.deleted_at IS NOT NULL OR a.status <> 'active' THEN 'disabled'
            WHEN a.tenant_id IS NOT NULL AND NOT EXISTS (SELECT FROM tenants t
                WHERE t.tenant_id = a.tenant_id AND t.status = 'active' AND t.deleted_at IS NULL) THEN 'tenant_disabled'
            ELSE 'accepted'
        END::key_outcome;
        service_account_id := a.service_account_id;
        tenant_id := a.tenant_id;
        IF outcome <> 'accepted' THEN
            PERFORM audit_record_with(p_refused, jsonb_build_object('reason', outcome, 'tenant_id', a.tenant_id,
                'target_kind', 'api_key', 'target_id', k.api_key_id));
            EXIT body;
        END IF;
        permissions := CASE
            WHEN cardinality(k.scopes) = 0 OR '*' = ANY (k.scopes) THEN a.permissions
            WHEN '*' = ANY (a.permissions) THEN k.scopes
            ELSE ARRAY(SELECT unnest(a.permissions) INTERSECT SELECT unnest(k.scopes) ORDER BY 1)
        END;
        tokens_valid_from := a.tokens_valid_from;
        expires_at := k.expires_at;
        UPDATE api_keys x SET last_used_at = date_trunc('minute', p_now)
            WHERE x.api_key_id = k.api_key_id AND x.last_used_at IS DISTINCT FROM date_trunc('minute', p_now);
        PERFORM audit_record_with(p_event, jsonb_build_object('tenant_id', a.tenant_id, 'actor_kind', 'service_account',
            'actor_id', a.service_account_id, 'origin_subject', a.service_account_id, 'personal_subject',
            a.service_account_id, 'target_kind', 'api_key', 'target_id', k.api_key_id));
    END body;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION api_key_exchange(bytea, text, uuid, timestamptz, prepared_event, prepared_event) IS 'Verifies an API key or a client secret and returns what it permits: the account''s rights within the key''s scopes. Refused keys that exist are recorded.';
REVOKE ALL ON FUNCTION api_key_exchange(bytea, text, uuid, timestamptz, prepared_event, prepared_event) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api_key_exchange(bytea, text, uuid, timestamptz, prepared_event, prepared_event) TO sidle_app;
