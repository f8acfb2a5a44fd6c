-- An administrator who cannot sign in does not count. A lock after failures ends by itself, so it is ignored here:
-- otherwise guesses at one administrator would protect another from being removed.
CREATE OR REPLACE FUNCTION directory_has_platform_admin(p_now timestamptz) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    outer_scope text := coalesce(current_setting('sidle.platform', true), '');
    found_one boolean;
BEGIN
    PERFORM set_config('sidle.platform', 'on', true);
    SELECT EXISTS (
        SELECT FROM public.platform_grants g
        JOIN public.roles r ON r.role_id = g.role_id
        JOIN public.users u ON u.user_id = g.user_id
        JOIN public.tenants t ON t.tenant_id = u.tenant_id
        WHERE '*' = ANY (r.permissions) AND r.is_platform
            AND u.status = 'active' AND u.deleted_at IS NULL
            AND (u.locked_until IS NULL OR u.locked_until <= p_now OR u.lock_reason = 'too_many_failures')
            AND (u.auth_method <> 'kanidm' AND u.password_hash IS NOT NULL
                OR u.auth_method <> 'password' AND u.kanidm_user_id IS NOT NULL)
            AND t.status = 'active' AND t.deleted_at IS NULL) INTO found_one;
    PERFORM set_config('sidle.platform', outer_scope, true);
    RETURN found_one;
END
$$;
COMMENT ON FUNCTION directory_has_platform_admin(timestamptz) IS 'Whether any administrator with all permissions on the platform can sign in.';
REVOKE ALL ON FUNCTION directory_has_platform_admin(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION directory_has_platform_admin(timestamptz) TO sidle_app;
