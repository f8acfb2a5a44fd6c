CREATE OR REPLACE FUNCTION migration_plan_standing(p_plan uuid, OUT fit bigint, OUT taken bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    -- Uses indexes, also where the tables were analysed while they were empty.
    SET enable_seqscan = off
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    SELECT count(*) FILTER (WHERE u.deleted_at IS NULL AND u.kanidm_user_id IS NULL AND u.status = 'active'
            AND u.auth_method = 'password' AND u.version = p.user_version AND u.rights_version = p.user_rights_version),
        count(*) FILTER (WHERE EXISTS (SELECT FROM migration_items i
            WHERE i.kanidm_name = p.kanidm_name AND i.user_id <> p.user_id
                AND i.state IN ('pending', 'intent_recorded', 'created', 'grouped', 'linked')))
    INTO fit, taken
    FROM migration_plan_items p JOIN users u ON u.user_id = p.user_id
    WHERE p.plan_id = p_plan AND p.forecast = 'will_be_created';
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION migration_plan_standing(uuid) IS 'Of the persons that a plan will create: how many users are unchanged since it was planned, and how many names a migration gave, or is giving, to another user, in any tenant.';
REVOKE ALL ON FUNCTION migration_plan_standing(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION migration_plan_standing(uuid) TO sidle_app;
