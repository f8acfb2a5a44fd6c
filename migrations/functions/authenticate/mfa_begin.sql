-- First part of completing a login with a second factor, before the code is computed; mfa_finish comes after it.
CREATE OR REPLACE FUNCTION mfa_begin(p_challenge_hash bytea, p_now timestamptz, p_max integer, p_lock interval, p_longest interval)
    RETURNS factor_attempt
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
    c mfa_challenges%ROWTYPE;
    u users%ROWTYPE;
    t user_totp%ROWTYPE;
    v_result factor_attempt;
BEGIN
    <<body>>
    BEGIN
        SELECT * INTO c FROM mfa_challenges x WHERE x.challenge_hash = p_challenge_hash;
        IF c.challenge_id IS NULL THEN
            v_result.refusal := 'unknown_challenge';
            EXIT body;
        END IF;
        SELECT * INTO u FROM users x WHERE x.user_id = c.user_id AND x.deleted_at IS NULL FOR NO KEY UPDATE;
        SELECT * INTO t FROM user_totp x WHERE x.user_id = u.user_id AND x.confirmed_at IS NOT NULL;
        v_result.user_id := c.user_id;
        v_result.tenant_id := u.tenant_id;
        v_result.refusal := CASE
            WHEN c.expires_at <= p_now THEN 'challenge_lapsed'
            WHEN u.user_id IS NULL THEN 'unknown'
            WHEN u.auth_method = 'kanidm' THEN 'kanidm_only'
            WHEN u.password_hash IS NULL OR u.password_version <> c.password_version THEN 'changed_meanwhile'
            WHEN t.user_id IS NULL THEN 'no_second_factor'
        END::attempt_refusal;
        IF v_result.refusal IS NOT NULL THEN
            EXIT body;
        END IF;
        SELECT r.attempt, r.known_device, r.refusal INTO v_result.attempt, v_result.known_device, v_result.refusal
            FROM attempt_reserve(u.user_id, p_now, p_max, p_lock, p_longest, c.known_device_hash) r;
        IF v_result.refusal IS NULL THEN
            v_result.totp_id := t.totp_id;
            v_result.secret := t.secret;
            v_result.request := c.request;
        END IF;
    END body;
    PERFORM rls_restore(v_scope);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION mfa_begin(bytea, timestamptz, integer, interval, interval) IS 'Reserves an attempt to complete a login with a code, counted with those at the password, or returns why not.';
REVOKE ALL ON FUNCTION mfa_begin(bytea, timestamptz, integer, interval, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mfa_begin(bytea, timestamptz, integer, interval, interval) TO sidle_app;
