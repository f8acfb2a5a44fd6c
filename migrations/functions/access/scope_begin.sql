-- Begins every transaction of the service. A scope that is already set was left by a caller that was cancelled
-- half-way: it must not be reused, whichever it is.
CREATE OR REPLACE FUNCTION scope_begin(p_tenant uuid) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog
    AS $$
BEGIN
    IF current_setting('sidle.platform', true) <> '' OR current_setting('sidle.tenant_id', true) <> '' THEN
        RAISE EXCEPTION 'the transaction has a scope already' USING ERRCODE = 'active_sql_transaction';
    END IF;
    IF p_tenant IS NULL THEN
        PERFORM set_config('sidle.platform', 'on', true);
    ELSE
        PERFORM set_config('sidle.tenant_id', p_tenant::text, true);
    END IF;
END
$$;
COMMENT ON FUNCTION scope_begin(uuid) IS 'Sets, once in a transaction, the tenant that it acts for; null for the platform.';
