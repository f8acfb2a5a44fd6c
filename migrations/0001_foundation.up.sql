-- The two database roles, the functions of row-level security, and the trigger function of versioned tables.
--
-- The owner runs these files; the service connects as `sidle_app`. The application role owns nothing, cannot bypass
-- row-level security, and sees no row until a transaction says which tenant it acts for (`sidle.tenant_id`) or that it
-- acts for the platform (`sidle.platform`). Security is forced, so that the owner is bound by it as well.
--
-- Only functions that tables refer to, in policies and triggers, are here. All others are in functions/, one in each
-- file.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'sidle_app') THEN
        CREATE ROLE sidle_app NOLOGIN;
    END IF;
END
$$;

GRANT USAGE ON SCHEMA public TO sidle_app;

-- A search path that does not name pg_temp looks there first: a session that may create temporary tables could hide a
-- table with one of its own, with a trigger, from a function that runs as the owner. So every function names pg_temp
-- last, and the service, which needs no temporary tables, may create none. Where the owner of the tables does not own
-- the database, the statement only warns; the search path protects the functions all the same.
DO $$
BEGIN
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END
$$;

-- Both have standard SQL bodies, whose names are resolved when the function is created, so that they need no search
-- path of their own: a function with a SET clause cannot be inlined into the statement that calls it, and inlined into
-- every policy these cost next to nothing.
CREATE FUNCTION sidle_tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('sidle.tenant_id', true), '')::uuid;
COMMENT ON FUNCTION sidle_tenant() IS 'The tenant that the current transaction acts for; null when none was set.';

CREATE FUNCTION sidle_platform() RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(current_setting('sidle.platform', true) = 'on', false);
COMMENT ON FUNCTION sidle_platform() IS 'Whether the current transaction acts for the platform, that is for every tenant.';

-- Every changeable record has a version, so that of two concurrent writers exactly one succeeds.
CREATE FUNCTION sidle_touch() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog
    AS $$
BEGIN
    NEW.version := OLD.version + 1;
    NEW.updated_at := now();
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION sidle_touch() IS 'Trigger: counts versions and stamps updated_at.';
