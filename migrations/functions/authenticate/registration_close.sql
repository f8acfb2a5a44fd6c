CREATE OR REPLACE FUNCTION registration_close(p_registration uuid, p_state text) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
    UPDATE registrations SET state = p_state, email = NULL, email_key = NULL, username = NULL, username_key = NULL, full_name = NULL,
            password_hash = NULL, password_cost = NULL, password_pepper_id = NULL
        WHERE registration_id = p_registration
$$;
COMMENT ON FUNCTION registration_close(uuid, text) IS 'Ends a registration and forgets who asked for it.';
REVOKE ALL ON FUNCTION registration_close(uuid, text) FROM PUBLIC;
