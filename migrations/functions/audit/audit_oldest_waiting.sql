-- Polled by every replica many times a second, so it takes one round trip, and no transaction id when nothing waits.
CREATE OR REPLACE FUNCTION audit_oldest_waiting() RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    outer_scope text := coalesce(current_setting('sidle.platform', true), '');
    oldest bigint;
BEGIN
    -- An owner who is not a superuser cannot declare this with SET on the function, so it is restored explicitly.
    PERFORM set_config('sidle.platform', 'on', true);
    SELECT min(waiting.inbox_id) INTO oldest FROM public.audit_waiting(1) waiting;
    PERFORM set_config('sidle.platform', outer_scope, true);
    RETURN oldest;
END
$$;
COMMENT ON FUNCTION audit_oldest_waiting() IS 'Number of the oldest event that waits for its position; null when none does.';
REVOKE ALL ON FUNCTION audit_oldest_waiting() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit_oldest_waiting() TO sidle_app;
