CREATE OR REPLACE FUNCTION second_factor_refuse(p_user uuid, p_event prepared_event, p_lock prepared_event,
    p_mail new_message, p_now timestamptz, p_tell_again interval) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_scope text := rls_enter_platform();
BEGIN
    PERFORM audit_record(p_event.event, p_event.personal);
    IF p_lock.event IS NOT NULL THEN
        PERFORM audit_record(p_lock.event, p_lock.personal);
        PERFORM lock_recorded(p_lock);
        -- Once, and not again before the user has signed in: guesses must not fill a mailbox.
        UPDATE users u SET second_factor_told_at = p_now
            WHERE u.user_id = p_user AND u.deleted_at IS NULL AND u.verified_at IS NOT NULL AND p_mail.mail_id IS NOT NULL
                AND (u.second_factor_told_at IS NULL OR (u.last_login_at > u.second_factor_told_at
                    AND u.second_factor_told_at + p_tell_again <= p_now));
        IF FOUND THEN
            PERFORM mail_enqueue(p_mail);
        END IF;
    END IF;
    PERFORM rls_restore(v_scope);
END
$$;
COMMENT ON FUNCTION second_factor_refuse(uuid, prepared_event, prepared_event, new_message, timestamptz, interval) IS 'Records a wrong second factor, and the lock that it led to; with a lock the user is notified at their verified address, unless they were notified lately.';
REVOKE ALL ON FUNCTION second_factor_refuse(uuid, prepared_event, prepared_event, new_message, timestamptz, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION second_factor_refuse(uuid, prepared_event, prepared_event, new_message, timestamptz, interval) TO sidle_app;
