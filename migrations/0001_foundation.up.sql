-- The two database roles, what keeps tenants apart, and what changeable tables are made with.
--
-- The owner runs these files; the service connects as `sidle_app`. The application role owns nothing, cannot bypass
-- row-level security, and sees no row until a transaction says which tenant it acts for (`sidle.tenant_id`) or that it
-- acts for the platform (`sidle.platform`). Security is forced, so that the owner is bound by it as well.
--
-- The functions here are those that tables are made of: policies and triggers of every table name them. All others lie in
-- functions/, one in each file.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'sidle_app') THEN
        CREATE ROLE sidle_app NOLOGIN;
    END IF;
END
$$;

GRANT USAGE ON SCHEMA public TO sidle_app;

-- A search path that does not name pg_temp looks there first: whoever can make temporary tables in the session could put
-- one of theirs, with a trigger, in the way of a function that runs as the owner. So every function names it last, and
-- the service, which needs none, may make none. An owner of the tables who does not own the database gets a warning, and
-- the functions hold all the same.
DO $$
BEGIN
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END
$$;

-- Both are written in the standard's way, so that what the names in them mean is settled now, without a search path of
-- their own: a function with a setting of its own cannot become part of the statement that asks it, and as part of every
-- policy these cost next to nothing.
CREATE FUNCTION sidle_tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('sidle.tenant_id', true), '')::uuid;
COMMENT ON FUNCTION sidle_tenant() IS 'The tenant that the current transaction acts for; null when none was set.';

CREATE FUNCTION sidle_platform() RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(current_setting('sidle.platform', true) = 'on', false);
COMMENT ON FUNCTION sidle_platform() IS 'Whether the current transaction acts for the platform, that is for every tenant.';

-- Every changeable record counts its versions, so that of two writers exactly one wins.
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
