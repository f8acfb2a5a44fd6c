-- A program that makes keys does so with a credential that somebody made for it. What that somebody has to answer for is
-- noted when a credential is made, since later the credential that was used may be gone.
CREATE OR REPLACE FUNCTION credential_makers(p_by uuid) RETURNS uuid[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    -- A token outlives the key that bought it by less than a day.
    RETURN ARRAY(SELECT p_by WHERE p_by IS NOT NULL
        UNION SELECT maker FROM public.api_keys k, unnest(k.makers) maker
            WHERE k.service_account_id = p_by AND (k.revoked_at IS NULL OR k.revoked_at > clock_timestamp() - interval '1 day')
                AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp() - interval '1 day')
        UNION SELECT maker FROM public.service_account_certificates c, unnest(c.makers) maker
            WHERE c.service_account_id = p_by
        ORDER BY 1);
END
$$;
COMMENT ON FUNCTION credential_makers(uuid) IS 'Who answers for a credential that this user or service account makes: they themselves and, for a service account, whoever answers for one of its credentials.';
REVOKE ALL ON FUNCTION credential_makers(uuid) FROM PUBLIC;
