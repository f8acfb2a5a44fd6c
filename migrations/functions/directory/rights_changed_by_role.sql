CREATE OR REPLACE FUNCTION rights_changed_by_role() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    PERFORM kanidm_projections_review(ARRAY(SELECT DISTINCT m.user_id FROM memberships m WHERE m.role_id = NEW.role_id));
    PERFORM rls_restore(v_scope);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION rights_changed_by_role() IS 'Trigger: a role began or ceased to make its holders administrators.';
REVOKE ALL ON FUNCTION rights_changed_by_role() FROM PUBLIC;

CREATE OR REPLACE TRIGGER roles_rights_changed AFTER UPDATE OF is_admin ON roles FOR EACH ROW
    WHEN (OLD.is_admin IS DISTINCT FROM NEW.is_admin) EXECUTE FUNCTION rights_changed_by_role();
