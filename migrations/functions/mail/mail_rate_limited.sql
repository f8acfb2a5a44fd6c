CREATE OR REPLACE FUNCTION mail_rate_limited(p_recipient_key text, p_kind text, p_most integer) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
DECLARE
    v_hash bytea := sha256(convert_to(p_recipient_key, 'UTF8'));
    v_asked text[] := ARRAY['verify_email', 'password_reset', 'kanidm_sign_in', 'registration_attempt'];
    v_kinds text[] := CASE WHEN p_kind = ANY (v_asked) THEN v_asked ELSE ARRAY[p_kind] END;
BEGIN
    IF NOT sidle_platform() THEN
        -- Outside the platform's scope no message is visible: that must not be taken for none.
        RETURN true;
    END IF;
    IF p_kind = ANY (v_asked) THEN
        -- Serialised for each address, or several concurrent requests would each be below the limit. Notices are not: a
        -- change may write to two addresses, and two changes must not wait for each other.
        PERFORM pg_advisory_xact_lock(('x' || encode(substr(v_hash, 1, 8), 'hex'))::bit(64)::bigint);
    END IF;
    -- Counted by address, not by user: deleting a user and creating another does not reset the count.
    RETURN (SELECT count(*) FROM mail_outbox m
            WHERE m.recipient_hash = v_hash AND m.created_at > clock_timestamp() - interval '1 hour'
                AND m.kind = ANY (v_kinds)) >= p_most;
END
$$;
COMMENT ON FUNCTION mail_rate_limited(text, text, integer) IS 'Whether an address is at its limit of messages of a kind in the last hour. Those that anonymous callers can cause share one limit; notices of each kind have their own, so that an attacker cannot suppress a warning by causing another message first.';
REVOKE ALL ON FUNCTION mail_rate_limited(text, text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mail_rate_limited(text, text, integer) TO sidle_app;
