-- What the directory needs beside its tables: ids for platform grants, the mark of built-in roles, and the few
-- questions that must be answered over every tenant although the caller acts in one.

ALTER TABLE platform_grants ADD COLUMN membership_id uuid NOT NULL DEFAULT gen_random_uuid();
CREATE UNIQUE INDEX platform_grants_membership_id_key ON platform_grants (membership_id);
COMMENT ON COLUMN platform_grants.membership_id IS 'Id under which the grant is shown among the memberships.';

ALTER TABLE roles ADD COLUMN is_built_in boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN roles.is_built_in IS 'Whether Sidle came with the role; such a role is neither changed nor deleted.';
SELECT set_config('sidle.platform', 'on', true);
UPDATE roles SET is_built_in = true
    WHERE tenant_id IS NULL AND name IN ('SYSTEM_ADMIN', 'super_admin', 'admin', 'user');

-- For the check of the foreign keys when a role is deleted, and to find who has a role when it changes.
CREATE INDEX idx_memberships_role ON memberships (role_id, user_id);
CREATE INDEX idx_platform_grants_role ON platform_grants (role_id, user_id);

-- A tenant's administrator must not change somebody who has rights elsewhere that the administrator lacks, and cannot
-- see those rights: so this function looks over every tenant, at one user.
CREATE FUNCTION directory_rights(p_user uuid) RETURNS TABLE (tenant_id uuid, permissions text[])
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
#variable_conflict use_column
DECLARE
    outer_scope text := coalesce(current_setting('sidle.platform', true), '');
BEGIN
    -- An owner who is not a superuser cannot declare this with SET on the function, so it is put back by hand.
    PERFORM set_config('sidle.platform', 'on', true);
    RETURN QUERY
        SELECT m.tenant_id, r.permissions
        FROM public.memberships m JOIN public.roles r ON r.role_id = m.role_id
        WHERE m.user_id = p_user
        UNION ALL
        SELECT NULL, r.permissions
        FROM public.platform_grants g JOIN public.roles r ON r.role_id = g.role_id
        WHERE g.user_id = p_user;
    PERFORM set_config('sidle.platform', outer_scope, true);
END
$$;
COMMENT ON FUNCTION directory_rights(uuid) IS 'What a user may do, by tenant; a null tenant stands for the platform.';
REVOKE ALL ON FUNCTION directory_rights(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION directory_rights(uuid) TO sidle_app;

-- An administrator who cannot sign in does not count. A lock after failures ends by itself, so it does not matter here:
-- otherwise guessing at one administrator would protect another from being removed.
CREATE FUNCTION directory_has_platform_admin(p_now timestamptz) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public
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
COMMENT ON FUNCTION directory_has_platform_admin(timestamptz) IS 'Whether anybody with all permissions on the platform can sign in.';
REVOKE ALL ON FUNCTION directory_has_platform_admin(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION directory_has_platform_admin(timestamptz) TO sidle_app;

-- A member's home may be another tenant, whose rows the caller cannot change; the tokens must end all the same. The rows
-- are locked, as every login and refresh does before it reads what the user may do: a token with the old rights thus
-- names an earlier revocation.
CREATE FUNCTION directory_lock_users(p_users uuid[]) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public
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
COMMENT ON FUNCTION directory_lock_users(uuid[]) IS 'Keeps logins and refreshes of these users waiting until the transaction ends; for a tenant, of its members only.';
REVOKE ALL ON FUNCTION directory_lock_users(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION directory_lock_users(uuid[]) TO sidle_app;

CREATE FUNCTION directory_end_tokens(p_users uuid[]) RETURNS timestamptz
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    outer_scope text := coalesce(current_setting('sidle.platform', true), '');
    revoked timestamptz;
BEGIN
    PERFORM set_config('sidle.platform', 'on', true);
    -- All or none: the event names them all, and a user whose row does not say the same would get tokens that are void.
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
COMMENT ON FUNCTION directory_end_tokens(uuid[]) IS 'Revokes the access tokens of these users and tells by which time; for a tenant, of its members only.';
REVOKE ALL ON FUNCTION directory_end_tokens(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION directory_end_tokens(uuid[]) TO sidle_app;

-- The platform may say in a tenant's settings of which domains the addresses of its users are, `{"sidle": {"domains":
-- ["example.com"]}}`: whoever administers a tenant, or registers there, then makes nobody with the address of somebody
-- else's organisation. Asked in one place, whatever statement brings a user in.
CREATE FUNCTION tenant_takes_address(p_tenant uuid, p_email_key text) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_result boolean;
BEGIN
    -- Without the setting every address is taken; a setting that is no list takes none.
    v_result := coalesce((SELECT jsonb_exists(t.settings #> '{sidle,domains}', substring(p_email_key FROM '[^@]*$'))
        FROM tenants t WHERE t.tenant_id = p_tenant), true);
    PERFORM session_narrow(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION tenant_takes_address(uuid, text) IS 'Whether an address, in lower case, is of one of the domains that a tenant is confined to, if it is confined at all.';
REVOKE ALL ON FUNCTION tenant_takes_address(uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenant_takes_address(uuid, text) TO sidle_app;

CREATE FUNCTION users_domain_check() RETURNS trigger
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public
    AS $$
DECLARE
    v_scope text := session_widen();
    v_foreign boolean;
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- One look for all rows of an import's statement.
        v_foreign := EXISTS (SELECT FROM added a JOIN tenants t ON t.tenant_id = a.tenant_id
            WHERE NOT coalesce(jsonb_exists(t.settings #> '{sidle,domains}', substring(a.email_key FROM '[^@]*$')), true));
    ELSE
        v_foreign := NOT tenant_takes_address(NEW.tenant_id, NEW.email_key);
    END IF;
    IF v_foreign THEN
        RAISE EXCEPTION 'an address is of none of the domains of the tenant'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'users_email_domain_check', TABLE = 'users';
    END IF;
    PERFORM session_narrow(v_scope);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION users_domain_check() IS 'Trigger: keeps users of a tenant that is confined to domains to addresses of those.';
REVOKE ALL ON FUNCTION users_domain_check() FROM PUBLIC;
CREATE TRIGGER users_domain_of_new AFTER INSERT ON users REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION users_domain_check();
CREATE TRIGGER users_domain_of_changed AFTER UPDATE OF email_key, tenant_id ON users FOR EACH ROW
    WHEN (OLD.email_key IS DISTINCT FROM NEW.email_key OR OLD.tenant_id IS DISTINCT FROM NEW.tenant_id)
    EXECUTE FUNCTION users_domain_check();
