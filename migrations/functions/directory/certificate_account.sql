-- The account of a client certificate. Asked before a principal is known, so it reads one row across all tenants.
CREATE OR REPLACE FUNCTION certificate_account(p_ca text, p_uri text,
    OUT service_account_id uuid, OUT tenant_id uuid, OUT permissions text[], OUT tokens_valid_from timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    a service_accounts%ROWTYPE;
BEGIN
    -- Locked as by an exchange of a key: a change of the account comes entirely before this or after it.
    SELECT x.* INTO a FROM service_account_certificates c
        JOIN service_accounts x ON x.service_account_id = c.service_account_id
        WHERE c.ca_name = p_ca AND c.uri = p_uri FOR SHARE OF x;
    IF a.deleted_at IS NULL AND a.status = 'active'
            AND EXISTS (SELECT FROM service_account_certificates c
                WHERE c.ca_name = p_ca AND c.uri = p_uri AND c.service_account_id = a.service_account_id)
            AND (a.tenant_id IS NULL OR EXISTS (SELECT FROM tenants t
                WHERE t.tenant_id = a.tenant_id AND t.status = 'active' AND t.deleted_at IS NULL)) THEN
        service_account_id := a.service_account_id;
        tenant_id := a.tenant_id;
        permissions := a.permissions;
        tokens_valid_from := a.tokens_valid_from;
    END IF;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION certificate_account(text, text) IS 'The service account that a client certificate of this authority with this URI authenticates, and what it may do; no row when there is none that can be used.';
REVOKE ALL ON FUNCTION certificate_account(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION certificate_account(text, text) TO sidle_app;
