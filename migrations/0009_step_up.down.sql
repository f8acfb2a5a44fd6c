DROP FUNCTION factors_tidy(timestamptz);
DROP FUNCTION factor_spend(uuid, uuid, bigint, bytea[], timestamptz);
DROP FUNCTION step_up_take(bytea, uuid, uuid, text, text, timestamptz);
DROP FUNCTION step_up_ways(uuid);
DROP TRIGGER users_step_up_forget ON users;
DROP FUNCTION step_up_forget();
DROP INDEX idx_user_totp_lapsing;
DROP TABLE step_up_tokens;
