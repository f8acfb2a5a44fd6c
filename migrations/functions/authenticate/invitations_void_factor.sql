-- An invitation that a second factor protects must not outlive it, and one from before it must not bypass it.
CREATE OR REPLACE FUNCTION invitations_void_factor() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_user uuid := CASE WHEN TG_OP = 'DELETE' THEN OLD.user_id ELSE NEW.user_id END;
BEGIN
    -- Persons are locked before invitations, here as everywhere, to prevent deadlocks.
    UPDATE kanidm_enrolments e SET link = NULL FROM users u
        WHERE u.user_id = v_user AND e.person_id = u.kanidm_user_id AND e.link IS NOT NULL;
    DELETE FROM invitations i WHERE i.user_id = v_user;
    PERFORM rls_restore(v_scope);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION invitations_void_factor() IS 'Trigger: voids the invitation of a user whose second factor changes.';
REVOKE ALL ON FUNCTION invitations_void_factor() FROM PUBLIC;

CREATE OR REPLACE TRIGGER user_totp_invitations_void
    AFTER UPDATE OF confirmed_at, secret, totp_id ON user_totp FOR EACH ROW
    WHEN (OLD.confirmed_at IS DISTINCT FROM NEW.confirmed_at
        OR (NEW.confirmed_at IS NOT NULL AND (OLD.secret, OLD.totp_id) IS DISTINCT FROM (NEW.secret, NEW.totp_id)))
    EXECUTE FUNCTION invitations_void_factor();
CREATE OR REPLACE TRIGGER user_totp_invitations_void_removed
    AFTER DELETE ON user_totp FOR EACH ROW
    WHEN (OLD.confirmed_at IS NOT NULL)
    EXECUTE FUNCTION invitations_void_factor();
