-- A member's home may be another tenant, whose rows the caller cannot change; the tokens must be revoked all the same.
-- The rows are locked, as every login and refresh does before it reads the user's rights: a token with the old rights
-- thus names an earlier revocation.
CREATE OR REPLACE FUNCTION directory_lock_users(p_users uuid[]) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    outer_scope text := coalesce(current_setting('sidle.platform', true), '');
BEGIN
    PERFORM set_config('sidle.platform', 'on', true);
    PERFORM FROM public.users u
    WHERE u.user_id = ANY (p_users)
        AND (outer_scope = 'on' OR u.tenant_id = public.sidle_tenant() OR EXISTS (
            SELECT FROM public.memberships m WHERE m.user_id = u.user_id AND m.tenant_id = public.sidle_tenant()))
    ORDER BY u.user_id
    FOR NO KEY UPDATE OF u;
    PERFORM set_config('sidle.platform', outer_scope, true);
END
$$;
COMMENT ON FUNCTION directory_lock_users(uuid[]) IS 'Makes logins and refreshes of these users wait until the transaction ends; for a tenant, of its members only.';
REVOKE ALL ON FUNCTION directory_lock_users(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION directory_lock_users(uuid[]) TO sidle_app;
