CREATE OR REPLACE FUNCTION kanidm_login_begin(p_login jsonb, p_pkce_verifier bytea,
    OUT outcome text, OUT about_person boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    v_purpose text := coalesce(p_login ->> 'purpose', 'login');
    v_user uuid := (p_login ->> 'user_id')::uuid;
    v_session uuid := (p_login ->> 'session_id')::uuid;
    v_tenant uuid := (p_login #>> '{request,tenant_id}')::uuid;
BEGIN
    <<body>>
    BEGIN
        about_person := v_purpose = 'login' AND EXISTS (SELECT FROM tenants t
            WHERE t.settings @> '{"sidle": {"kanidm_first_login": true}}' AND t.status = 'active'
                AND t.deleted_at IS NULL AND (v_tenant IS NULL OR t.tenant_id = v_tenant));
        IF v_purpose = 'link' THEN
            outcome := kanidm_link_refusal(v_user, v_session);
        ELSIF v_purpose = 'step_up' AND NOT EXISTS (SELECT FROM users u WHERE u.user_id = v_user
                AND u.kanidm_user_id IS NOT NULL AND u.auth_method <> 'password' AND u.status = 'active') THEN
            outcome := 'not_linked';
        END IF;
        IF outcome IS NOT NULL THEN
            EXIT body;
        END IF;
        INSERT INTO kanidm_logins (login_id, state_hash, secret_hash, nonce_hash, pkce_verifier, redirect_uri, request,
            created_at, expires_at, purpose, user_id, session_id)
        VALUES ((p_login ->> 'login_id')::uuid, decode(p_login ->> 'state_hash', 'hex'),
            decode(p_login ->> 'secret_hash', 'hex'), decode(p_login ->> 'nonce_hash', 'hex'), p_pkce_verifier,
            p_login ->> 'redirect_uri', p_login -> 'request', (p_login ->> 'created_at')::timestamptz,
            (p_login ->> 'expires_at')::timestamptz, v_purpose, v_user, v_session);
        outcome := 'begun';
    END body;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION kanidm_login_begin(jsonb, bytea) IS 'Remembers a login that goes to Kanidm, unless its purpose is not open to the user; tells whether a person may become a user by it.';
REVOKE ALL ON FUNCTION kanidm_login_begin(jsonb, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kanidm_login_begin(jsonb, bytea) TO sidle_app;
