DROP TABLE kanidm_enrolments, kanidm_projections, kanidm_logins, kanidm_tenant_groups;
DROP TYPE person_refusal, new_invitation;
