-- The release before this one reads every key that is not retired; what is retired is of no use to it.
DELETE FROM signing_keys WHERE state = 'retired';
DROP INDEX idx_signing_keys_retired_at;
DROP INDEX signing_keys_pending_key;
ALTER TABLE signing_keys DROP CONSTRAINT signing_keys_times_check;
ALTER TABLE signing_keys
    DROP CONSTRAINT signing_keys_private_key_check,
    DROP CONSTRAINT signing_keys_retire_reason_check,
    DROP CONSTRAINT signing_keys_expires_check,
    DROP COLUMN retire_reason,
    DROP COLUMN expires_at,
    DROP COLUMN activates_at;
ALTER TABLE signing_keys ADD CONSTRAINT signing_keys_times_check CHECK (
    (state = 'pending' OR activated_at IS NOT NULL) AND (state <> 'retired' OR retired_at IS NOT NULL));
COMMENT ON COLUMN signing_keys.private_key IS 'PKCS#8 private key, sealed; the public key is derived from it, never stored.';
