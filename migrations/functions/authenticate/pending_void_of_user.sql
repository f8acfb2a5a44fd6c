CREATE OR REPLACE FUNCTION pending_void_of_user() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    PERFORM pending_void(NEW.user_id);
    PERFORM rls_restore(v_scope);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION pending_void_of_user() IS 'Trigger: voids what a user has pending.';
REVOKE ALL ON FUNCTION pending_void_of_user() FROM PUBLIC;

-- Not on the automatic lock: otherwise an attacker who guesses could void the password reset of the user they lock out.
CREATE OR REPLACE TRIGGER users_pending_void
    AFTER UPDATE OF password_changed_at, password_hash, email_key, kanidm_user_id, auth_method, status, locked_until,
        lock_reason, deleted_at ON users FOR EACH ROW
    WHEN (OLD.password_changed_at IS DISTINCT FROM NEW.password_changed_at
        OR (OLD.password_hash IS NULL) <> (NEW.password_hash IS NULL)
        OR OLD.email_key <> NEW.email_key OR OLD.kanidm_user_id IS DISTINCT FROM NEW.kanidm_user_id
        OR (OLD.auth_method <> NEW.auth_method AND NEW.auth_method = 'password')
        OR OLD.status <> NEW.status OR NEW.status <> 'active'
        OR (OLD.deleted_at IS NULL) <> (NEW.deleted_at IS NULL)
        OR (OLD.lock_reason IS NOT DISTINCT FROM 'administrator') <> (NEW.lock_reason IS NOT DISTINCT FROM 'administrator')
        OR (NEW.lock_reason = 'administrator' AND OLD.locked_until IS DISTINCT FROM NEW.locked_until))
    EXECUTE FUNCTION pending_void_of_user();
