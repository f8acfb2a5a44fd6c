CREATE OR REPLACE FUNCTION tokens_revocation_order() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp
    AS $$
BEGIN
    RAISE integrity_constraint_violation USING MESSAGE = 'a revocation of tokens comes after the one before it';
END
$$;
COMMENT ON FUNCTION tokens_revocation_order() IS 'Trigger: refuses a revocation that would leave tokens valid which it is to end.';
REVOKE ALL ON FUNCTION tokens_revocation_order() FROM PUBLIC;

CREATE OR REPLACE TRIGGER users_tokens_revocation_order BEFORE UPDATE OF tokens_valid_from ON users FOR EACH ROW
    WHEN (OLD.tokens_valid_from IS NOT NULL AND (NEW.tokens_valid_from > OLD.tokens_valid_from) IS NOT TRUE)
    EXECUTE FUNCTION tokens_revocation_order();
CREATE OR REPLACE TRIGGER service_accounts_tokens_revocation_order BEFORE UPDATE OF tokens_valid_from ON service_accounts
    FOR EACH ROW WHEN (OLD.tokens_valid_from IS NOT NULL AND (NEW.tokens_valid_from > OLD.tokens_valid_from) IS NOT TRUE)
    EXECUTE FUNCTION tokens_revocation_order();
