CREATE OR REPLACE FUNCTION kanidm_person_refusal(p_user uuid, p_person uuid) RETURNS person_refusal
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_result person_refusal;
BEGIN
    -- Locked, so that no migration can record its intent to create a person for the user meanwhile.
    PERFORM FROM migration_items i WHERE i.user_id = p_user
        AND i.state IN ('pending', 'intent_recorded', 'created', 'grouped') FOR UPDATE;
    v_result := CASE
        WHEN EXISTS (SELECT FROM migration_items i WHERE i.user_id = p_user
            AND i.state IN ('intent_recorded', 'created', 'grouped')) THEN 'migrating'
        -- Also a user who is not linked: the person that Sidle creates for them has their id.
        WHEN EXISTS (SELECT FROM users u WHERE u.user_id <> p_user
            AND (u.kanidm_user_id = p_person OR u.user_id = p_person)) THEN 'person_taken'
    END::person_refusal;
    PERFORM rls_restore(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION kanidm_person_refusal(uuid, uuid) IS 'Why a person may not be linked to a user: a migration is at work on the user, or the person belongs to another user. Null when they may; until the transaction ends no migration starts work on the user.';
REVOKE ALL ON FUNCTION kanidm_person_refusal(uuid, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kanidm_person_refusal(uuid, uuid) TO sidle_app;
