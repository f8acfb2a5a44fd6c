CREATE OR REPLACE FUNCTION rights_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    PERFORM kanidm_projections_review(ARRAY[CASE WHEN TG_OP = 'INSERT' THEN NEW.user_id ELSE OLD.user_id END]);
    PERFORM rls_restore(v_scope);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION rights_changed() IS 'Trigger: a membership or grant of a user was added or removed.';
REVOKE ALL ON FUNCTION rights_changed() FROM PUBLIC;

-- Not for memberships from Kanidm groups: those follow the groups. Nor for an import, which gives memberships to new
-- users only, who are in no plan yet.
CREATE OR REPLACE TRIGGER memberships_given AFTER INSERT ON memberships FOR EACH ROW
    WHEN (NEW.source = 'local') EXECUTE FUNCTION rights_changed();
CREATE OR REPLACE TRIGGER memberships_taken AFTER DELETE ON memberships FOR EACH ROW
    WHEN (OLD.source <> 'kanidm') EXECUTE FUNCTION rights_changed();
CREATE OR REPLACE TRIGGER platform_grants_changed AFTER INSERT OR DELETE ON platform_grants FOR EACH ROW
    EXECUTE FUNCTION rights_changed();
