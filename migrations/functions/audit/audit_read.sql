-- The only query of the log. Sees what the caller's scope permits. Planned for each call, so that a condition that is
-- null drops out and the others find their index.
CREATE OR REPLACE FUNCTION audit_read(
    p_after bigint, p_until bigint, p_limit bigint, p_newest_first boolean,
    p_tenant uuid, p_types text[], p_actor uuid, p_target_kind text, p_target text, p_session uuid,
    p_correlation uuid, p_outcome text
) RETURNS TABLE (
    "position" bigint, event_id uuid, event_type text, outcome text, reason text, occurred_at timestamptz,
    recorded_at timestamptz, tenant_id uuid, actor_kind text, actor_id uuid, target_kind text, target_id text,
    session_id uuid, correlation_id uuid, request_id uuid, source text, details jsonb, origin_state text,
    origin_subject uuid, origin_sealed bytea, origin_key bytea, personal_state text, personal_subject uuid,
    personal_sealed bytea, personal_key bytea, leaf bytea, leaf_hash bytea
)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, public, pg_temp
    SET plan_cache_mode = force_custom_plan
    AS $$
#variable_conflict use_column
BEGIN
    IF p_newest_first THEN
        RETURN QUERY SELECT e.position, e.event_id, e.event_type, e.outcome, e.reason, e.occurred_at, e.recorded_at,
                e.tenant_id, e.actor_kind, e.actor_id, e.target_kind, e.target_id, e.session_id, e.correlation_id,
                e.request_id, e.source, e.details, e.origin_state, e.origin_subject, e.origin_sealed, o.wrapped_key,
                e.personal_state, e.personal_subject, e.personal_sealed, p.wrapped_key, e.leaf, e.leaf_hash
            FROM public.audit_events e
                LEFT JOIN public.audit_subject_keys o ON o.subject_id = e.origin_subject
                LEFT JOIN public.audit_subject_keys p ON p.subject_id = e.personal_subject
            WHERE e.position > p_after AND e.position <= p_until
                AND (p_tenant IS NULL OR e.tenant_id = p_tenant)
                AND (p_types IS NULL OR e.event_type = ANY (p_types))
                AND (p_actor IS NULL OR e.actor_id = p_actor)
                AND (p_target_kind IS NULL OR e.target_kind = p_target_kind)
                AND (p_target IS NULL OR e.target_id = p_target)
                AND (p_session IS NULL OR e.session_id = p_session)
                AND (p_correlation IS NULL OR e.correlation_id = p_correlation)
                AND (p_outcome IS NULL OR e.outcome = p_outcome)
            ORDER BY e.position DESC LIMIT p_limit;
    ELSE
        RETURN QUERY SELECT e.position, e.event_id, e.event_type, e.outcome, e.reason, e.occurred_at, e.recorded_at,
                e.tenant_id, e.actor_kind, e.actor_id, e.target_kind, e.target_id, e.session_id, e.correlation_id,
                e.request_id, e.source, e.details, e.origin_state, e.origin_subject, e.origin_sealed, o.wrapped_key,
                e.personal_state, e.personal_subject, e.personal_sealed, p.wrapped_key, e.leaf, e.leaf_hash
            FROM public.audit_events e
                LEFT JOIN public.audit_subject_keys o ON o.subject_id = e.origin_subject
                LEFT JOIN public.audit_subject_keys p ON p.subject_id = e.personal_subject
            WHERE e.position > p_after AND e.position <= p_until
                AND (p_tenant IS NULL OR e.tenant_id = p_tenant)
                AND (p_types IS NULL OR e.event_type = ANY (p_types))
                AND (p_actor IS NULL OR e.actor_id = p_actor)
                AND (p_target_kind IS NULL OR e.target_kind = p_target_kind)
                AND (p_target IS NULL OR e.target_id = p_target)
                AND (p_session IS NULL OR e.session_id = p_session)
                AND (p_correlation IS NULL OR e.correlation_id = p_correlation)
                AND (p_outcome IS NULL OR e.outcome = p_outcome)
            ORDER BY e.position LIMIT p_limit;
    END IF;
END
$$;
COMMENT ON FUNCTION audit_read(bigint, bigint, bigint, boolean, uuid, text[], uuid, text, text, uuid, uuid, text) IS 'Events after one position up to another that meet every condition that is not null, with the wrapped keys of each one''s subjects.';
REVOKE ALL ON FUNCTION audit_read(bigint, bigint, bigint, boolean, uuid, text[], uuid, text, text, uuid, uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit_read(bigint, bigint, bigint, boolean, uuid, text[], uuid, text, text, uuid, uuid, text) TO sidle_app;
