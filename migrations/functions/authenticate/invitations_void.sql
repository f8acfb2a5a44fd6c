-- A trigger rather than the callers voids an invitation, so that none of them can omit it.
CREATE OR REPLACE FUNCTION invitations_void() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    DELETE FROM invitations i WHERE i.user_id = NEW.user_id;
    -- A reset link that was handed out cannot be revoked at Kanidm, but it is handed out no more.
    UPDATE kanidm_enrolments e SET link = NULL
        WHERE e.person_id IN (OLD.kanidm_user_id, NEW.kanidm_user_id) AND e.link IS NOT NULL;
    PERFORM rls_restore(v_scope);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION invitations_void() IS 'Trigger: voids the invitation of a user and takes back the reset link.';
REVOKE ALL ON FUNCTION invitations_void() FROM PUBLIC;

-- A rehash is no new password: password_changed_at does not change.
CREATE OR REPLACE TRIGGER users_invitations_void
    AFTER UPDATE OF email_key, password_hash, password_changed_at, must_change_password, auth_method, status,
        locked_until, kanidm_user_id, migration_completed_at, deleted_at ON users FOR EACH ROW
    WHEN (OLD.email_key <> NEW.email_key
        OR OLD.password_changed_at IS DISTINCT FROM NEW.password_changed_at
        OR NEW.password_hash IS NULL
        OR (NEW.must_change_password AND NOT OLD.must_change_password)
        OR OLD.auth_method <> NEW.auth_method
        OR NEW.status <> 'active'
        OR (NEW.locked_until IS NOT NULL AND OLD.locked_until IS DISTINCT FROM NEW.locked_until)
        OR OLD.kanidm_user_id IS DISTINCT FROM NEW.kanidm_user_id
        OR OLD.migration_completed_at IS DISTINCT FROM NEW.migration_completed_at
        OR NEW.deleted_at IS NOT NULL)
    EXECUTE FUNCTION invitations_void();
