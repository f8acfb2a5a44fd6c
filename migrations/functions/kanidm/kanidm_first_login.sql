CREATE OR REPLACE FUNCTION kanidm_first_login(p_person uuid, p_groups uuid[], p_about jsonb, p_asked_tenant uuid, p_now timestamptz,
    p_created jsonb, p_created_personal bytea, OUT outcome text, OUT choices uuid[])
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    -- An import in progress may be writing the same address; it may take minutes.
    SET lock_timeout = '2s'
    AS $$
DECLARE
    v_tenant uuid;
    v_made boolean;
    v_constraint text;
BEGIN
    choices := ARRAY(SELECT DISTINCT t.tenant_id FROM kanidm_tenant_groups g
        JOIN tenants t ON t.tenant_id = g.tenant_id JOIN roles r ON r.role_id = g.role_id
        WHERE g.kanidm_group_uuid = ANY (p_groups) AND NOT r.is_platform AND t.status = 'active' AND t.deleted_at IS NULL
            AND t.settings @> '{"sidle": {"kanidm_first_login": true}}' ORDER BY 1);
    outcome := CASE
        WHEN cardinality(choices) = 0 THEN 'not_linked'
        WHEN p_asked_tenant IS NOT NULL AND p_asked_tenant <> ALL (choices) THEN 'not_linked'
        WHEN p_asked_tenant IS NULL AND cardinality(choices) > 1 THEN 'tenant_required'
        WHEN p_about ->> 'email' IS NULL THEN 'no_mail'
        WHEN NOT tenant_accepts_address(coalesce(p_asked_tenant, choices[1]), p_about ->> 'email_key') THEN 'foreign_domain'
    END;
    IF outcome IS NOT NULL THEN
        RETURN;
    END IF;
    v_tenant := coalesce(p_asked_tenant, choices[1]);
    BEGIN
        INSERT INTO users (user_id, tenant_id, email, email_key, full_name, auth_method, kanidm_user_id, kanidm_synced_at,
            created_at, updated_at)
        VALUES (p_person, v_tenant, p_about ->> 'email', p_about ->> 'email_key', coalesce(p_about ->> 'full_name', ''),
            'kanidm', p_person, p_now, p_now, p_now);
        v_made := true;
    EXCEPTION WHEN unique_violation THEN
        GET STACKED DIAGNOSTICS v_constraint = CONSTRAINT_NAME;
        v_made := false;
    END;
    IF v_made THEN
        PERFORM audit_record(p_created || jsonb_build_object('tenant_id', v_tenant), p_created_personal);
    END IF;
    -- Not made, and linked all the same: another login of this person came first. Otherwise the id or the address is
    -- somebody else's, which gives the person nothing: an administrator decides whether the two are one.
    outcome := CASE
        WHEN v_made OR EXISTS (SELECT FROM users u WHERE u.kanidm_user_id = p_person AND u.deleted_at IS NULL) THEN 'found'
        WHEN v_constraint = 'users_email_key_key' THEN 'mail_taken'
        ELSE 'id_taken'
    END;
END
$$;
COMMENT ON FUNCTION kanidm_first_login(uuid, uuid[], jsonb, uuid, timestamptz, jsonb, bytea) IS 'Makes a user of a person whom no user is linked to, where a tenant of the person''s groups wants that; nobody is found by address or name.';
REVOKE ALL ON FUNCTION kanidm_first_login(uuid, uuid[], jsonb, uuid, timestamptz, jsonb, bytea) FROM PUBLIC;
