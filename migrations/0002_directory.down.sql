DROP TABLE request_answers, service_account_certificates, api_keys, service_accounts, platform_grants, memberships,
    roles, users, tenants;
