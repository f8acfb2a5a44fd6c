-- Pending logins and proofs depend on the credentials and the status that the user had when they were begun. They are
-- voided by this one function, which is called by signing out everywhere and by every change of credentials, address,
-- status or an administrator's lock, in either direction: what is begun while a user is shut out is void as well.
-- Invitations have rules of their own (invitations_void).
CREATE OR REPLACE FUNCTION pending_void(p_user uuid) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    -- Expired rather than deleted: an answer to it is refused on record.
    UPDATE mfa_challenges c SET expires_at = c.created_at WHERE c.user_id = p_user AND c.expires_at > c.created_at;
    UPDATE one_time_tokens t SET used_at = clock_timestamp()
        WHERE t.user_id = p_user AND t.purpose = 'password_reset' AND t.used_at IS NULL;
    DELETE FROM step_up_tokens t WHERE t.user_id = p_user;
    -- An enrolment that was begun with the old password does not carry over to the new one.
    DELETE FROM user_totp t WHERE t.user_id = p_user AND t.confirmed_at IS NULL;
    DELETE FROM kanidm_logins l WHERE l.user_id = p_user;
END
$$;
COMMENT ON FUNCTION pending_void(uuid) IS 'Voids what a user has pending: logins that wait for a second factor, password resets, step-up tokens, unfinished enrolments, and logins at Kanidm that are to reauthenticate or to link. For functions that have entered the platform scope.';
REVOKE ALL ON FUNCTION pending_void(uuid) FROM PUBLIC;
