//! The rules for a single row, which need no database.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::candidate::{Candidate, Finding};
use super::mapping::{Found, Mapping};
use crate::access::input;
use crate::access::names::{email_key, username_key};
use crate::credential::hash_form::{self, HashFault, HashForm, WEAK_BELOW};
use crate::migration::vocabulary::ImportReason;

/// One user of the old system, as it knew them.
#[derive(Clone, Debug)]
pub struct Row {
    /// Line or number of the row.
    pub line: i64,
    /// Id in the old system.
    pub legacy_id: String,
    /// Address.
    pub email: String,
    /// Name to sign in with.
    pub username: String,
    /// Name shown to people.
    pub full_name: String,
    /// bcrypt hash; empty for none.
    pub password_hash: String,
    /// Whether the user could sign in to the old system.
    pub is_active: bool,
    /// When the user was created; an error for what is no time.
    pub created_at: Result<Option<DateTime<Utc>>, ()>,
    /// Tenant, as the old system names it.
    pub tenant: String,
    /// Role, as the old system names it.
    pub role: String,
    /// Why the client could not read the row; empty when it could.
    pub unreadable: String,
}

impl Row {
    /// Digest over everything the row says.
    pub(super) fn digest(&self) -> [u8; 32] {
        let created_at = match &self.created_at {
            Ok(Some(time)) => time.timestamp_micros().to_string(),
            Ok(None) => String::new(),
            Err(()) => "invalid".to_owned(),
        };
        let is_active = if self.is_active { "1" } else { "0" };
        let fields = [
            self.legacy_id.as_str(),
            &self.email,
            &self.username,
            &self.full_name,
            &self.password_hash,
            is_active,
            &created_at,
            &self.tenant,
            &self.role,
            &self.unreadable,
        ];
        digest(fields.map(str::as_bytes))
    }

    /// Judges the row by itself. `fresh_id` is the user's id if the row brings none. All that is wrong is found in one pass.
    pub(super) fn judge(
        &self,
        mapping: &Mapping,
        inactive: &'static str,
        fresh_id: Uuid,
    ) -> Result<Candidate, Vec<Finding>> {
        let mut findings = Vec::new();
        let mut found = |reason, field| findings.push(Finding { reason, field });
        if !self.unreadable.is_empty() {
            return Err(vec![Finding { reason: ImportReason::Unreadable, field: "" }]);
        }
        for (field, value, longest) in [("legacy_id", &self.legacy_id, 128), ("full_name", &self.full_name, 256)] {
            if value.chars().count() > longest {
                found(ImportReason::ValueTooLong, field);
            } else if value.chars().any(char::is_control) {
                found(ImportReason::InvalidCharacter, field);
            }
        }
        let email = self.email.trim();
        if email.is_empty() {
            found(ImportReason::EmailMissing, "email");
        } else if input::email("email", email).is_err() {
            found(ImportReason::EmailInvalid, "email");
        }
        let hash = self.password_hash.trim();
        let form = match hash {
            "" => None,
            hash => match hash_form::read(hash) {
                Ok(form) => Some(form),
                Err(HashFault::Broken) => {
                    found(ImportReason::BrokenHash, "password_hash");
                    None
                }
                Err(HashFault::CostTooHigh) => {
                    found(ImportReason::HashCostTooHigh, "password_hash");
                    None
                }
            },
        };
        if self.created_at.is_err() {
            found(ImportReason::InvalidTime, "created_at");
        }
        let tenant_id = match mapping.tenant(self.tenant.trim()) {
            Found::Id(id) => id,
            Found::Missing => {
                found(ImportReason::TenantMissing, "tenant");
                Uuid::nil()
            }
            Found::Unknown => {
                found(ImportReason::UnknownTenant, "tenant");
                Uuid::nil()
            }
        };
        if !tenant_id.is_nil() && email.contains('@') && !mapping.takes(tenant_id, &email_key(email)) {
            found(ImportReason::EmailForeignDomain, "email");
        }
        let role_id = match mapping.role(tenant_id, self.role.trim()) {
            Found::Id(id) => id,
            // Without a tenant its own roles are not known either; the tenant is the finding.
            _ if tenant_id.is_nil() => Uuid::nil(),
            _ => {
                found(ImportReason::UnknownRole, "role");
                Uuid::nil()
            }
        };
        if !findings.is_empty() {
            return Err(findings);
        }
        let status = if self.is_active { "active" } else { inactive };
        let digest = digest([&self.digest()[..], tenant_id.as_bytes(), role_id.as_bytes(), status.as_bytes()]);
        let kept_id = kept_id(&self.legacy_id);
        let (username, username_remark) = self.usable_username();
        Ok(Candidate {
            line: self.line,
            user_id: kept_id.unwrap_or(fresh_id),
            keeps_id: kept_id.is_some(),
            legacy_id: (!self.legacy_id.is_empty()).then(|| self.legacy_id.clone()),
            tenant_id,
            role_id,
            email: email.to_owned(),
            email_key: email_key(email),
            username,
            full_name: self.full_name.trim().to_owned(),
            password_hash: form.map(|_| hash_form::canonical(hash)),
            form,
            status,
            created_at: self.created_at.unwrap_or_default(),
            digest,
            remarks: username_remark.into_iter().chain(self.remarks(form)).collect(),
        })
    }

    /// The username, unless it cannot be one.
    fn usable_username(&self) -> (Option<String>, Option<Finding>) {
        let username = self.username.trim();
        let invalid = Finding { reason: ImportReason::UsernameInvalid, field: "username" };
        match username {
            "" => (None, None),
            name if name.chars().count() > 128
                || name.chars().any(char::is_control)
                || username_key(name).is_none() =>
            {
                (None, Some(invalid))
            }
            name => (Some(name.to_owned()), None),
        }
    }

    fn remarks(&self, form: Option<HashForm>) -> impl Iterator<Item = Finding> {
        let hash = |reason| Finding { reason, field: "password_hash" };
        let is_old = form.is_some_and(|form| form.kind == "$2x$");
        let is_weak = form.is_some_and(|form| form.cost < WEAK_BELOW);
        [
            form.is_none().then(|| hash(ImportReason::NoPassword)),
            (!self.is_active).then_some(Finding { reason: ImportReason::Inactive, field: "is_active" }),
            is_old.then(|| hash(ImportReason::OldHash)),
            is_weak.then(|| hash(ImportReason::LowCost)),
        ]
        .into_iter()
        .flatten()
    }
}

/// A UUID becomes the user's id. Not one from the range that Kanidm keeps for itself, where no person can be made.
fn kept_id(legacy_id: &str) -> Option<Uuid> {
    let id = input::uuid("legacy_id", legacy_id).ok()?;
    (id.as_u128() >> 64 != 0).then_some(id)
}

/// SHA-256 over parts, each with its length, so that no two lists of parts give the same bytes.
pub(super) fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}
