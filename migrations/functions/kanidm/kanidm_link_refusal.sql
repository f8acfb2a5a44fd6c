-- Whoever set a first password may still know it: a person whom they link would stay when the password has gone.
CREATE OR REPLACE FUNCTION kanidm_link_refusal(p_user uuid, p_session uuid) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    u users%ROWTYPE;
    s sessions%ROWTYPE;
BEGIN
    SELECT * INTO u FROM users x WHERE x.user_id = p_user AND x.deleted_at IS NULL FOR NO KEY UPDATE;
    SELECT * INTO s FROM sessions x WHERE x.session_id = p_session AND x.user_id = p_user FOR NO KEY UPDATE;
    RETURN CASE
        WHEN u.user_id IS NULL OR u.status <> 'active' OR s.session_id IS NULL OR s.status <> 'active' THEN 'refused'
        -- A user who was rolled back keeps the link for the next attempt, and an administrator's word on it.
        WHEN u.kanidm_user_id IS NOT NULL OR u.auth_method <> 'password' THEN 'already_linked'
        WHEN u.must_change_password THEN 'password_change_required'
    END;
END
$$;
COMMENT ON FUNCTION kanidm_link_refusal(uuid, uuid) IS 'Why the user of a session may not link a person now; null when they may.';
REVOKE ALL ON FUNCTION kanidm_link_refusal(uuid, uuid) FROM PUBLIC;
