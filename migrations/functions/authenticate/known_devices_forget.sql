-- A change that removes or invalidates a password also forgets the devices that became known with it.
CREATE OR REPLACE FUNCTION known_devices_forget() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    DELETE FROM known_devices d WHERE d.user_id = NEW.user_id;
    PERFORM rls_restore(v_scope);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION known_devices_forget() IS 'Trigger: forgets the known devices of a user.';
REVOKE ALL ON FUNCTION known_devices_forget() FROM PUBLIC;

CREATE OR REPLACE TRIGGER users_known_devices_forget
    AFTER UPDATE OF password_changed_at, password_hash, auth_method, status, deleted_at ON users FOR EACH ROW
    WHEN (OLD.password_changed_at IS DISTINCT FROM NEW.password_changed_at OR NEW.password_hash IS NULL
        OR OLD.auth_method IS DISTINCT FROM NEW.auth_method AND OLD.auth_method <> 'password'
        OR NEW.status = 'disabled' OR NEW.deleted_at IS NOT NULL)
    EXECUTE FUNCTION known_devices_forget();
