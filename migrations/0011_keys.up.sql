-- Signing keys that take over at a time known beforehand, and are forgotten when their last token has expired.

ALTER TABLE signing_keys
    ADD COLUMN activates_at timestamptz,
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN retire_reason text;
UPDATE signing_keys SET activates_at = coalesce(activated_at, created_at);
ALTER TABLE signing_keys
    ALTER COLUMN activates_at SET NOT NULL,
    ADD CONSTRAINT signing_keys_expires_check CHECK ((expires_at IS NOT NULL) = (state IN ('retiring', 'retired'))),
    ADD CONSTRAINT signing_keys_retire_reason_check CHECK (retire_reason IN ('expired', 'revoked', 'superseded')),
    ADD CONSTRAINT signing_keys_private_key_check CHECK ((octet_length(private_key) = 0) = (state = 'retired'));
-- A rotation that is under way is replaced by a later one, never joined by it.
CREATE UNIQUE INDEX signing_keys_pending_key ON signing_keys (state) WHERE state = 'pending';
-- Replicas that start learn from it which keys were revoked lately.
CREATE INDEX idx_signing_keys_retired_at ON signing_keys (retired_at) WHERE retired_at IS NOT NULL;

-- A pending key that is replaced, or revoked, never signs.
ALTER TABLE signing_keys DROP CONSTRAINT signing_keys_times_check;
ALTER TABLE signing_keys ADD CONSTRAINT signing_keys_times_check CHECK (
    (state IN ('pending', 'retired') OR activated_at IS NOT NULL) AND (state <> 'retired' OR retired_at IS NOT NULL));

COMMENT ON COLUMN signing_keys.private_key IS 'PKCS#8 private key, sealed; the public key is derived from it, never stored. Empty once the key is retired.';
COMMENT ON COLUMN signing_keys.activates_at IS 'When it is to begin to sign.';
COMMENT ON COLUMN signing_keys.expires_at IS 'When the last token that it signed has expired: from then on it is accepted no more.';
COMMENT ON COLUMN signing_keys.retire_reason IS 'expired (its time was over), revoked (by an administrator) or superseded (by another before it signed).';
