-- A search path that does not name pg_temp looks there first: whoever can make temporary tables in the session could put
-- one of theirs, with a trigger, in the way of a function that runs as the owner. So every function names it last, and
-- the service, which needs none, may make none.
DO $$
DECLARE
    v_function regprocedure;
BEGIN
    FOR v_function IN
        SELECT p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'public' AND 'search_path=pg_catalog, public' = ANY (p.proconfig)
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, public, pg_temp', v_function);
    END LOOP;
    -- An owner of the tables who does not own the database gets a warning, and the functions hold all the same.
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END
$$;
