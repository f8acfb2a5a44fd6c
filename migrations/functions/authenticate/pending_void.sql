-- What waits to become a login was begun under what the user was then. It is voided in one place, which is called by
-- signing out everywhere and by whatever changes credentials, address, status or an administrator's lock, in either
-- direction: what is begun while a user is shut out is worth nothing either. Invitations have rules of their own
-- (invitations_void).
CREATE OR REPLACE FUNCTION pending_void(p_user uuid) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    -- Lapsed and not gone: whoever answers it is refused on record.
    UPDATE mfa_challenges c SET expires_at = c.created_at WHERE c.user_id = p_user AND c.expires_at > c.created_at;
    UPDATE one_time_tokens t SET used_at = clock_timestamp()
        WHERE t.user_id = p_user AND t.purpose = 'password_reset' AND t.used_at IS NULL;
    DELETE FROM step_up_tokens t WHERE t.user_id = p_user;
    -- An enrolment that the old password began is not the new password's.
    DELETE FROM user_totp t WHERE t.user_id = p_user AND t.confirmed_at IS NULL;
    DELETE FROM kanidm_logins l WHERE l.user_id = p_user;
END
$$;
COMMENT ON FUNCTION pending_void(uuid) IS 'Voids what a user has under way: logins that wait for a second factor, links to a new password, proofs, unfinished enrolments, and what went to Kanidm to prove or to link. For functions that have entered the platform scope.';
REVOKE ALL ON FUNCTION pending_void(uuid) FROM PUBLIC;
