CREATE OR REPLACE FUNCTION directory_revoke_tokens(p_users uuid[]) RETURNS timestamptz
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    outer_scope text := coalesce(current_setting('sidle.platform', true), '');
    revoked timestamptz;
BEGIN
    PERFORM set_config('sidle.platform', 'on', true);
    -- All or none: the event names them all, and a user whose row says otherwise would get tokens that are void.
    IF EXISTS (SELECT FROM public.users u
            WHERE u.user_id = ANY (p_users) AND outer_scope <> 'on' AND u.tenant_id IS DISTINCT FROM public.sidle_tenant()
                AND NOT EXISTS (SELECT FROM public.memberships m
                    WHERE m.user_id = u.user_id AND m.tenant_id = public.sidle_tenant())) THEN
        RAISE insufficient_privilege USING MESSAGE = 'a user is no member of the tenant';
    END IF;
    revoked := tokens_revoke(p_users, NULL);
    PERFORM set_config('sidle.platform', outer_scope, true);
    RETURN revoked;
END
$$;
COMMENT ON FUNCTION directory_revoke_tokens(uuid[]) IS 'Revokes the access tokens of these users and returns the epoch; for a tenant, of its members only.';
REVOKE ALL ON FUNCTION directory_revoke_tokens(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION directory_revoke_tokens(uuid[]) TO sidle_app;
