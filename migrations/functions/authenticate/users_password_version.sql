-- Every write of another hash changes the password, unless it says that it is a rehash.
CREATE OR REPLACE FUNCTION users_password_version() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    NEW.password_version := OLD.password_version + 1;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION users_password_version() IS 'Trigger: counts a change of the password.';
REVOKE ALL ON FUNCTION users_password_version() FROM PUBLIC;

CREATE OR REPLACE TRIGGER users_password_version
    BEFORE UPDATE ON users FOR EACH ROW
    WHEN (OLD.password_hash IS DISTINCT FROM NEW.password_hash AND OLD.password_rehashes = NEW.password_rehashes)
    EXECUTE FUNCTION users_password_version();
