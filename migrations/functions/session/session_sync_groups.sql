CREATE OR REPLACE FUNCTION session_sync_groups(p_user uuid, p_groups uuid[], p_now timestamptz,
    p_event prepared_event) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_added integer;
    v_removed integer;
    v_revoked timestamptz;
BEGIN
    -- A membership that Sidle withdrew from a group gives nothing back, however long the group still has it.
    p_groups := ARRAY(SELECT given FROM unnest(p_groups) given WHERE NOT EXISTS (SELECT FROM kanidm_projections p
        WHERE p.user_id = p_user AND p.kanidm_group_uuid = given AND p.withdrawn_at IS NOT NULL));
    WITH gone AS (
        DELETE FROM memberships m
        WHERE m.user_id = p_user AND m.source = 'kanidm' AND NOT EXISTS (
            SELECT FROM kanidm_tenant_groups g
            WHERE g.kanidm_group_uuid = ANY (p_groups) AND g.tenant_id = m.tenant_id AND g.role_id = m.role_id)
        RETURNING 1)
    SELECT count(*) INTO v_removed FROM gone;
    WITH made AS (
        INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source, created_at)
        SELECT gen_random_uuid(), g.tenant_id, p_user, g.role_id, 'kanidm', p_now
        FROM kanidm_tenant_groups g JOIN roles r ON r.role_id = g.role_id
        -- Whatever an administrator writes into the mapping: a group never gives a role of the platform.
        WHERE g.kanidm_group_uuid = ANY (p_groups) AND NOT r.is_platform
        ON CONFLICT DO NOTHING
        RETURNING 1)
    SELECT count(*) INTO v_added FROM made;
    IF v_removed > 0 THEN
        v_revoked := tokens_revoke(ARRAY[p_user], NULL);
    END IF;
    IF v_added + v_removed > 0 THEN
        PERFORM audit_record_with(p_event, jsonb_build_object('details',
            jsonb_build_object('added', v_added, 'removed', v_removed)
            || CASE WHEN v_removed > 0
                THEN jsonb_build_object('tokens_valid_from', (extract(epoch FROM v_revoked) * 1000000)::bigint)
                ELSE '{}' END));
    END IF;
    RETURN v_removed > 0;
END
$$;
COMMENT ON FUNCTION session_sync_groups(uuid, uuid[], timestamptz, prepared_event) IS 'Makes a user''s memberships from Kanidm those of these groups, which are identified by recorded uuid, except those that Sidle withdrew; when one was removed, revokes access tokens and says so.';
REVOKE ALL ON FUNCTION session_sync_groups(uuid, uuid[], timestamptz, prepared_event) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION session_sync_groups(uuid, uuid[], timestamptz, prepared_event) TO sidle_app;
