-- Takes away everything that 0004 made. Users stay, and forget which row of which import they came from.
DROP TRIGGER roles_rights_changed ON roles;
DROP TRIGGER platform_grants_changed ON platform_grants;
DROP TRIGGER memberships_taken ON memberships;
DROP TRIGGER memberships_given ON memberships;
DROP FUNCTION migration_plan_standing(uuid), rights_changed_by_role(), rights_changed(), kanidm_projections_review(uuid[]);
DROP TABLE kanidm_projections, migration_items, migrations, migration_plan_items, migration_plans, imports;
CREATE INDEX idx_users_legacy_id ON users (legacy_id) WHERE legacy_id IS NOT NULL;
DROP INDEX users_import_key;
ALTER TABLE users DROP CONSTRAINT users_import_digest_check, DROP COLUMN import_digest, DROP COLUMN import_source;
