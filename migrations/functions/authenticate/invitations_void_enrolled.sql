CREATE OR REPLACE FUNCTION invitations_void_enrolled() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    DELETE FROM invitations i USING users u WHERE u.kanidm_user_id = NEW.person_id AND i.user_id = u.user_id;
    NEW.link := NULL;
    PERFORM rls_restore(v_scope);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION invitations_void_enrolled() IS 'Trigger: voids the invitation of a user whose person in Kanidm has a credential, and takes back the reset link.';
REVOKE ALL ON FUNCTION invitations_void_enrolled() FROM PUBLIC;

CREATE OR REPLACE TRIGGER kanidm_enrolments_invitations_void
    BEFORE INSERT OR UPDATE OF credential_seen_at ON kanidm_enrolments FOR EACH ROW
    WHEN (NEW.credential_seen_at IS NOT NULL)
    EXECUTE FUNCTION invitations_void_enrolled();
