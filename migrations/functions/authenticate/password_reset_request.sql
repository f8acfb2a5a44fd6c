CREATE OR REPLACE FUNCTION password_reset_request(p_request jsonb, p_now timestamptz, p_event jsonb, p_personal bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    INSERT INTO password_reset_requests (request_id, identifier_key, correlation_id, event, personal, created_at)
    VALUES ((p_request ->> 'request_id')::uuid, p_request ->> 'identifier_key',
        (p_request ->> 'correlation_id')::uuid, p_event, p_personal, p_now)
    ON CONFLICT (identifier_key) DO NOTHING;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION password_reset_request(jsonb, timestamptz, jsonb, bytea) IS 'Writes down that somebody asks for a new password, without looking whose the address is.';
REVOKE ALL ON FUNCTION password_reset_request(jsonb, timestamptz, jsonb, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION password_reset_request(jsonb, timestamptz, jsonb, bytea) TO sidle_app;
