DROP TABLE kanidm_enrolments, kanidm_projections, kanidm_logins, kanidm_tenant_groups;
