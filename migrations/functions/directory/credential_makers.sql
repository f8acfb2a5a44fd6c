-- A service account that makes keys authenticates with a credential that has makers itself. They are recorded when the
-- new credential is made, since the credential that was used may be deleted later.
CREATE OR REPLACE FUNCTION credential_makers(p_by uuid) RETURNS uuid[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    -- A token outlives the key that it was exchanged for by less than a day.
    RETURN ARRAY(SELECT p_by WHERE p_by IS NOT NULL
        UNION SELECT maker FROM public.api_keys k, unnest(k.makers) maker
            WHERE k.service_account_id = p_by AND (k.revoked_at IS NULL OR k.revoked_at > clock_timestamp() - interval '1 day')
                AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp() - interval '1 day')
        UNION SELECT maker FROM public.service_account_certificates c, unnest(c.makers) maker
            WHERE c.service_account_id = p_by
        ORDER BY 1);
END
$$;
COMMENT ON FUNCTION credential_makers(uuid) IS 'The makers of a credential that this user or service account makes: they themselves and, for a service account, the makers of its credentials.';
REVOKE ALL ON FUNCTION credential_makers(uuid) FROM PUBLIC;
