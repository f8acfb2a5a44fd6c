-- As they were before.

CREATE OR REPLACE FUNCTION sidle_tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog
    AS $$ SELECT nullif(current_setting('sidle.tenant_id', true), '')::uuid $$;

CREATE OR REPLACE FUNCTION sidle_platform() RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog
    AS $$ SELECT coalesce(current_setting('sidle.platform', true) = 'on', false) $$;

CREATE OR REPLACE FUNCTION audit_record(p_event jsonb, p_personal bytea) RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path = pg_catalog, public, pg_temp
    AS $$
    SELECT pg_current_xact_id();
    INSERT INTO public.audit_inbox (event_id, event_type, outcome, reason, occurred_at, tenant_id, actor_kind, actor_id,
        target_kind, target_id, session_id, correlation_id, request_id, source, details, origin_subject,
        personal_subject, personal_sealed)
    VALUES ((p_event ->> 'event_id')::uuid, p_event ->> 'event_type', p_event ->> 'outcome', p_event ->> 'reason',
        (p_event ->> 'occurred_at')::timestamptz, (p_event ->> 'tenant_id')::uuid, p_event ->> 'actor_kind',
        (p_event ->> 'actor_id')::uuid, p_event ->> 'target_kind', p_event ->> 'target_id',
        (p_event ->> 'session_id')::uuid, (p_event ->> 'correlation_id')::uuid, (p_event ->> 'request_id')::uuid,
        p_event ->> 'source', coalesce(p_event -> 'details', '{}'),
        coalesce(p_event ->> 'origin_subject', p_event ->> 'personal_subject')::uuid,
        (p_event ->> 'personal_subject')::uuid, p_personal)
$$;

CREATE OR REPLACE FUNCTION session_rights(p_user uuid, p_tenant uuid,
    OUT member boolean, OUT roles text[], OUT permissions text[], OUT platform_permissions text[])
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, public, pg_temp
    AS $$
    SELECT EXISTS (SELECT FROM memberships m JOIN tenants t ON t.tenant_id = m.tenant_id
            WHERE m.user_id = p_user AND m.tenant_id = p_tenant AND t.status = 'active' AND t.deleted_at IS NULL),
        ARRAY(SELECT CASE WHEN r.tenant_id IS NULL THEN r.name ELSE 'tenant/' || r.name END
            FROM memberships m JOIN roles r ON r.role_id = m.role_id
            WHERE m.user_id = p_user AND m.tenant_id = p_tenant
            UNION SELECT 'platform/' || r.name FROM platform_grants g JOIN roles r ON r.role_id = g.role_id
            WHERE g.user_id = p_user ORDER BY 1),
        ARRAY(SELECT DISTINCT permission FROM memberships m JOIN roles r ON r.role_id = m.role_id,
                unnest(r.permissions) permission
            WHERE m.user_id = p_user AND m.tenant_id = p_tenant AND NOT r.is_platform ORDER BY 1),
        ARRAY(SELECT DISTINCT permission FROM platform_grants g JOIN roles r ON r.role_id = g.role_id,
                unnest(r.permissions) permission
            WHERE g.user_id = p_user AND r.is_platform ORDER BY 1)
$$;
