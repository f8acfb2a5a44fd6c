-- Locks the caller before what it changes: a user before service accounts and those by their ids, in the order of the
-- transactions that end them. The caller's rights then do not change until the transaction ends.
CREATE OR REPLACE FUNCTION directory_lock_caller(p_caller uuid, p_account uuid, OUT is_there boolean, OUT tokens_valid_from timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := public.rls_enter_platform();
BEGIN
    is_there := false;
    SELECT true, u.tokens_valid_from INTO is_there, tokens_valid_from FROM public.users u
        WHERE u.user_id = p_caller AND u.deleted_at IS NULL AND u.status <> 'disabled' FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM FROM public.service_accounts a WHERE a.service_account_id IN (p_caller, p_account)
            ORDER BY a.service_account_id FOR UPDATE;
        SELECT true, a.tokens_valid_from INTO is_there, tokens_valid_from FROM public.service_accounts a
            WHERE a.service_account_id = p_caller AND a.deleted_at IS NULL AND a.status = 'active';
    END IF;
    is_there := coalesce(is_there, false);
    PERFORM public.rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION directory_lock_caller(uuid, uuid) IS 'Locks the caller until the transaction ends, and the service account that it is about to change where the caller is one too; returns whether the caller may still act, and when its tokens were revoked last.';
REVOKE ALL ON FUNCTION directory_lock_caller(uuid, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION directory_lock_caller(uuid, uuid) TO sidle_app;
