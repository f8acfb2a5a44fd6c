DROP FUNCTION directory_end_tokens(uuid[]);
DROP FUNCTION directory_lock_users(uuid[]);
DROP FUNCTION directory_has_platform_admin(timestamptz);
DROP FUNCTION directory_rights(uuid);
DROP INDEX idx_platform_grants_role;
DROP INDEX idx_memberships_role;
ALTER TABLE roles DROP COLUMN is_built_in;
DROP INDEX platform_grants_membership_id_key;
ALTER TABLE platform_grants DROP COLUMN membership_id;
