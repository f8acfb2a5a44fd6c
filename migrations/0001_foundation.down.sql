-- Takes away everything that 0001 made. The role sidle_app stays: other databases of the cluster may use it.
DROP TABLE request_answers, kanidm_tenant_groups, api_keys, service_accounts, platform_grants, memberships, roles,
    users, tenants CASCADE;
DROP FUNCTION tokens_revoke(uuid[], uuid[]);
DROP FUNCTION tokens_revoke_later();
DROP FUNCTION sidle_touch();
DROP FUNCTION scope_begin(uuid);
DROP FUNCTION sidle_platform();
DROP FUNCTION sidle_tenant();
REVOKE USAGE ON SCHEMA public FROM sidle_app;
