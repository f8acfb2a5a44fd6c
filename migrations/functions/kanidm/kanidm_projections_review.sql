CREATE OR REPLACE FUNCTION kanidm_projections_review(p_users uuid[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    -- The engine compares rights and records what it projects while it locks these rows: either it sees the change, or
    -- this sees the projection.
    PERFORM FROM users u WHERE u.user_id = ANY (p_users) ORDER BY u.user_id FOR NO KEY UPDATE;
    UPDATE users u SET rights_version = u.rights_version + 1 WHERE u.user_id = ANY (p_users);
    UPDATE kanidm_projections p SET withdrawn_at = CASE WHEN NOT stands.held THEN clock_timestamp() END
    FROM (SELECT x.user_id, x.kanidm_group_uuid, EXISTS (
              SELECT FROM memberships m JOIN roles r ON r.role_id = m.role_id
              -- A right that comes from the group itself is no reason to leave the person in it.
              WHERE m.user_id = x.user_id AND m.tenant_id = x.tenant_id AND m.source <> 'kanidm'
                  AND (x.role = 'member' OR r.is_admin)) AS held
          FROM kanidm_projections x WHERE x.user_id = ANY (p_users)) stands
    WHERE p.user_id = stands.user_id AND p.kanidm_group_uuid = stands.kanidm_group_uuid
        AND stands.held = (p.withdrawn_at IS NOT NULL);
    DELETE FROM memberships m USING kanidm_projections p
        JOIN kanidm_tenant_groups g ON g.kanidm_group_uuid = p.kanidm_group_uuid
    WHERE p.user_id = ANY (p_users) AND p.withdrawn_at IS NOT NULL
        AND m.user_id = p.user_id AND m.source = 'kanidm' AND m.tenant_id = g.tenant_id AND m.role_id = g.role_id;
END
$$;
COMMENT ON FUNCTION kanidm_projections_review(uuid[]) IS 'Counts a change of rights of these users, updates which of their projections are withdrawn, and removes the memberships that those groups gave.';
REVOKE ALL ON FUNCTION kanidm_projections_review(uuid[]) FROM PUBLIC;
