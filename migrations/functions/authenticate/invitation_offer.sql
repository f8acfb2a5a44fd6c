-- Called in the statement that completes a login, with its result: so it comes after every factor, and costs no round
-- trip.
CREATE OR REPLACE FUNCTION invitation_offer(p_outcome login_outcome, p_known_device boolean, p_user uuid,
    p_now timestamptz, p_offer new_invitation) RETURNS invitation_route
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text;
    u users%ROWTYPE;
    v_route invitation_route;
    v_mail new_message := p_offer.mail;
BEGIN
    IF p_outcome IS DISTINCT FROM 'signed_in' OR p_offer.invitation_id IS NULL THEN
        RETURN NULL;
    END IF;
    v_scope := rls_enter_platform();
    <<body>>
    BEGIN
        SELECT * INTO u FROM users x WHERE x.user_id = p_user FOR NO KEY UPDATE;
        IF u.user_id IS NULL OR u.must_change_password OR u.locked_until > p_now OR NOT enrolment_pending(u)
                OR NOT enrolment_tenant(u.tenant_id, p_offer.tenant_slugs) THEN
            EXIT body;
        END IF;
        IF p_known_device THEN
            v_route := 'login';
        ELSE
            -- A caller who has only the password gets nothing here: the invitation goes to the user's verified address.
            IF u.verified_at IS NULL OR v_mail.mail_id IS NULL THEN
                EXIT body;
            END IF;
            INSERT INTO kanidm_enrolments AS e (person_id, mailed_at) VALUES (u.kanidm_user_id, p_now)
                ON CONFLICT (person_id) DO UPDATE SET mailed_at = p_now
                    WHERE e.mailed_at IS NULL
                        OR e.mailed_at + p_offer.mail_every <= p_now;
            IF NOT FOUND THEN
                EXIT body;
            END IF;
            v_route := 'mail';
            v_mail.user_id := p_user;
            PERFORM mail_enqueue(v_mail);
        END IF;
        INSERT INTO invitations AS i (user_id, invitation_id, token_hash, route, created_at, expires_at)
            VALUES (p_user, p_offer.invitation_id, p_offer.token_hash, v_route::text, p_now, p_offer.expires_at)
            ON CONFLICT (user_id) DO UPDATE SET invitation_id = excluded.invitation_id,
                token_hash = excluded.token_hash, route = excluded.route, created_at = excluded.created_at,
                expires_at = excluded.expires_at;
        UPDATE users x SET migration_invited_at = p_now WHERE x.user_id = p_user AND x.migration_invited_at IS NULL;
        PERFORM audit_record_with(p_offer.issued, jsonb_build_object('tenant_id', u.tenant_id, 'details',
            jsonb_build_object('route', v_route)));
    END body;
    PERFORM rls_restore(v_scope);
    RETURN v_route;
END
$$;
COMMENT ON FUNCTION invitation_offer(login_outcome, boolean, uuid, timestamptz, new_invitation) IS 'After a complete login: invites a user who has not enrolled in Kanidm yet. Returns whether the token goes into the answer (login) or went by mail; null when there is no invitation.';
REVOKE ALL ON FUNCTION invitation_offer(login_outcome, boolean, uuid, timestamptz, new_invitation) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION invitation_offer(login_outcome, boolean, uuid, timestamptz, new_invitation) TO sidle_app;
