CREATE OR REPLACE FUNCTION invitation_find(p_token_hash bytea, p_now timestamptz,
    OUT invitation_id uuid, OUT user_id uuid, OUT second_factor boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    SELECT i.invitation_id, u.user_id,
            EXISTS (SELECT FROM user_totp t WHERE t.user_id = u.user_id AND t.confirmed_at IS NOT NULL)
        INTO invitation_id, user_id, second_factor
        FROM invitations i JOIN users u ON u.user_id = i.user_id
        WHERE i.token_hash = p_token_hash AND i.expires_at > p_now AND enrolment_pending(u);
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION invitation_find(bytea, timestamptz) IS 'Whose invitation this is, if it can be redeemed.';
REVOKE ALL ON FUNCTION invitation_find(bytea, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION invitation_find(bytea, timestamptz) TO sidle_app;
