CREATE OR REPLACE FUNCTION registration_request(p_registration jsonb, p_now timestamptz, p_event jsonb, p_personal bytea,
    OUT outcome text, OUT expires_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_tenant uuid := (p_registration ->> 'tenant_id')::uuid;
    r registrations%ROWTYPE;
BEGIN
    <<body>>
    BEGIN
        IF NOT registration_is_open(v_tenant)
            OR NOT tenant_accepts_address(v_tenant, p_registration ->> 'email_key') THEN
            outcome := 'closed';
            EXIT body;
        END IF;
        expires_at := (p_registration ->> 'expires_at')::timestamptz;
        INSERT INTO registrations (registration_id, request_id, request_hash, tenant_id, email, email_key, username,
            username_key, full_name, password_hash, password_cost, password_pepper_id, secret_hash, created_at, expires_at)
        VALUES ((p_registration ->> 'registration_id')::uuid, (p_registration ->> 'request_id')::uuid,
            decode(p_registration ->> 'request_hash', 'hex'), v_tenant, p_registration ->> 'email',
            p_registration ->> 'email_key', p_registration ->> 'username', p_registration ->> 'username_key',
            p_registration ->> 'full_name',
            p_registration ->> 'password_hash', (p_registration ->> 'password_cost')::smallint,
            (p_registration ->> 'password_pepper_id')::smallint, decode(p_registration ->> 'secret_hash', 'hex'), p_now,
            registration_request.expires_at)
        ON CONFLICT (request_id) DO NOTHING;
        IF FOUND THEN
            outcome := 'asked';
            PERFORM audit_record(p_event, p_personal);
            EXIT body;
        END IF;
        SELECT * INTO r FROM registrations x WHERE x.request_id = (p_registration ->> 'request_id')::uuid;
        outcome := CASE WHEN encode(r.request_hash, 'hex') = p_registration ->> 'request_hash' THEN 'repeated' ELSE 'reused' END;
        expires_at := r.expires_at;
    END body;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION registration_request(jsonb, timestamptz, jsonb, bytea) IS 'Writes down that somebody asks for an account, without looking whether the address has one.';
REVOKE ALL ON FUNCTION registration_request(jsonb, timestamptz, jsonb, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registration_request(jsonb, timestamptz, jsonb, bytea) TO sidle_app;
