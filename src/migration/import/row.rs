//! The rules for a single row, which need no database.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::candidate::{Candidate, Finding, RowNames};
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
    /// Why the client could not read the row.
    pub unreadable: Option<Unreadable>,
}

/// Why a client could not read a row.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// The field at fault; empty for the row as a whole, or for a name that is no field.
    pub field: &'static str,
    /// What the client says.
    pub why: String,
}

/// The fields of a row, as the contract names them.
const FIELDS: [&str; 9] =
    ["legacy_id", "email", "username", "full_name", "password_hash", "is_active", "created_at", "tenant", "role"];

impl Unreadable {
    /// What a client says of a row, unless it says nothing.
    pub fn read(field: &str, why: String) -> Option<Self> {
        let field = FIELDS.into_iter().find(|known| *known == field).unwrap_or_default();
        (!why.is_empty()).then_some(Self { field, why })
    }
}

/// Where a row's user belongs.
#[derive(Clone, Copy)]
struct Home {
    tenant_id: Uuid,
    role_id: Uuid,
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
            self.unreadable.as_ref().map_or("", |unreadable| &unreadable.why),
        ];
        digest(fields.map(str::as_bytes))
    }

    /// What the row is found by.
    pub(super) fn names(&self) -> RowNames {
        RowNames::new(&self.legacy_id, &self.email)
    }

    /// Judges the row by itself. `fresh_id` is the user's id if the row brings none. All that is wrong is found in one pass.
    pub(super) fn judge(
        &self,
        mapping: &Mapping,
        inactive: &'static str,
        fresh_id: Uuid,
    ) -> Result<Candidate, Vec<Finding>> {
        if let Some(Unreadable { field, why }) = &self.unreadable {
            return Err(vec![Finding::new(ImportReason::Unreadable, field).of(why)]);
        }
        let mut findings: Vec<Finding> = self.text_findings().chain(self.email_finding()).collect();
        let form = self.hash_form().unwrap_or_else(|finding| {
            findings.push(finding);
            None
        });
        if self.created_at.is_err() {
            findings.push(Finding::new(ImportReason::InvalidTime, "created_at"));
        }
        match self.home(mapping, &mut findings) {
            Some(home) if findings.is_empty() => Ok(self.candidate(home, form, inactive, fresh_id)),
            _ => Err(findings),
        }
    }

    /// What is wrong with texts that are kept as they are.
    fn text_findings(&self) -> impl Iterator<Item = Finding> {
        [("legacy_id", &self.legacy_id, 128), ("full_name", &self.full_name, 256)].into_iter().filter_map(
            |(field, value, longest)| {
                if value.chars().count() > longest {
                    Some(Finding::new(ImportReason::ValueTooLong, field).of(&format!("at most {longest} characters")))
                } else if value.chars().any(char::is_control) {
                    Some(Finding::new(ImportReason::InvalidCharacter, field))
                } else {
                    None
                }
            },
        )
    }

    fn email_finding(&self) -> Option<Finding> {
        let email = self.email.trim();
        if email.is_empty() {
            Some(Finding::new(ImportReason::EmailMissing, "email"))
        } else if input::email("email", email).is_err() {
            Some(Finding::new(ImportReason::EmailInvalid, "email"))
        } else {
            None
        }
    }

    /// The form of the password hash; none where there is no hash.
    fn hash_form(&self) -> Result<Option<HashForm>, Finding> {
        let hash = self.password_hash.trim();
        if hash.is_empty() {
            return Ok(None);
        }
        hash_form::read(hash).map(Some).map_err(|fault| {
            let reason = match fault {
                HashFault::Broken => ImportReason::BrokenHash,
                HashFault::CostTooHigh => ImportReason::HashCostTooHigh,
            };
            Finding::new(reason, "password_hash")
        })
    }

    /// The home tenant and the role there; none with a finding that says why.
    fn home(&self, mapping: &Mapping, findings: &mut Vec<Finding>) -> Option<Home> {
        let tenant_id = match mapping.tenant(self.tenant.trim()) {
            Found::Id(id) => id,
            // Without a tenant its own roles are not known either; the tenant is the finding.
            Found::Missing => {
                findings.push(Finding::new(ImportReason::TenantMissing, "tenant"));
                return None;
            }
            Found::Unknown => {
                findings.push(Finding::new(ImportReason::UnknownTenant, "tenant").of(&self.tenant));
                return None;
            }
        };
        let email = self.email.trim();
        if email.contains('@') && !mapping.takes(tenant_id, &email_key(email)) {
            findings.push(Finding::new(ImportReason::EmailForeignDomain, "email"));
        }
        let Found::Id(role_id) = mapping.role(tenant_id, self.role.trim()) else {
            findings.push(Finding::new(ImportReason::UnknownRole, "role").of(&self.role));
            return None;
        };
        Some(Home { tenant_id, role_id })
    }

    /// What a row without faults is imported as, with what there is to remark about it.
    fn candidate(&self, home: Home, form: Option<HashForm>, inactive: &'static str, fresh_id: Uuid) -> Candidate {
        let Home { tenant_id, role_id } = home;
        let status = if self.is_active { "active" } else { inactive };
        let digest = digest([&self.digest()[..], tenant_id.as_bytes(), role_id.as_bytes(), status.as_bytes()]);
        let kept_id = kept_id(&self.legacy_id);
        let (username, username_remark) = self.usable_username();
        let email = self.email.trim();
        Candidate {
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
            password_hash: form.map(|_| hash_form::canonical(self.password_hash.trim())),
            form,
            status,
            created_at: self.created_at.unwrap_or_default(),
            digest,
            remarks: username_remark.into_iter().chain(self.remarks(form)).collect(),
        }
    }

    /// The username, unless it cannot be one.
    fn usable_username(&self) -> (Option<String>, Option<Finding>) {
        let username = self.username.trim();
        let invalid = Finding::new(ImportReason::UsernameInvalid, "username").of(username);
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
        let hash = |reason| Finding::new(reason, "password_hash");
        let is_old = form.is_some_and(|form| form.kind == "$2x$");
        let is_weak = form.is_some_and(|form| form.cost < WEAK_BELOW);
        [
            form.is_none().then(|| hash(ImportReason::NoPassword)),
            (!self.is_active).then_some(Finding::new(ImportReason::Inactive, "is_active")),
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
