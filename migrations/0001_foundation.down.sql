-- The role sidle_app stays: other databases of the cluster may use it.
DROP FUNCTION sidle_touch(), sidle_platform(), sidle_tenant();
DO $$
BEGIN
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO PUBLIC', current_database());
END
$$;
REVOKE USAGE ON SCHEMA public FROM sidle_app;
