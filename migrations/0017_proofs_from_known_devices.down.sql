DROP FUNCTION factor_begin(uuid, boolean, timestamptz, integer, interval, interval, bytea);
DROP FUNCTION password_proof_begin(uuid, timestamptz, integer, interval, bytea);
