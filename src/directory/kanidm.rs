//! Linking users to people who were in Kanidm before: the explicit choice of an administrator, who may hand out neither
//! the user nor anything that the person's groups give.

use uuid::Uuid;

use super::{Change, Directory, admins, store, users};
use crate::access::Call;
use crate::access::delegation::{self, Effect};
use crate::audit::EventType;
use crate::authenticate::{self, PersonRefusal};
use crate::db::Scope;
use crate::fault::{Fault, Reason, Result};
use crate::kanidm::KanidmError;
use crate::mail::{Kind, Message};

/// Name of the RPC, as proofs are made for it.
pub(super) const METHOD: &str = "sidle.v1.DirectoryService/LinkKanidmPerson";

/// A person as Kanidm has it, with the groups that it is in, directly or through others.
pub(super) struct Candidate {
    person: Uuid,
    name: String,
    groups: Vec<Uuid>,
}

impl Directory {
    /// Asks Kanidm about a person. Outside of any transaction: Kanidm may be slow.
    ///
    /// # Errors
    /// `NOT_FOUND` without such a person; `KANIDM_UNAVAILABLE`, `KANIDM_REFUSED`, `KANIDM_NOT_CONFIGURED`.
    pub(super) async fn candidate(&self, call: &Call, person: Uuid) -> Result<Candidate> {
        call.principal()?.authorize("users.write", None)?;
        let kanidm =
            self.kanidm.as_ref().ok_or_else(|| Fault::new(Reason::KanidmNotConfigured, "No Kanidm is configured."))?;
        let found = kanidm.person(person).await?.ok_or_else(|| Fault::not_found("person"))?;
        // Every person is in some group, so none means that they may not be read: they could be any.
        let groups = kanidm.groups_of(person).await?;
        if groups.is_empty() {
            return Err(KanidmError::AccessDenied.into());
        }
        Ok(Candidate { person, name: found.name, groups })
    }
}

/// Refuses a tenant's administrator every person who is not in the tenant's own groups, or also in another tenant's: whom
/// they link has no other user from then on, and what a role means to other services is not ours to weigh.
fn within_tenant(own: Uuid, groups: impl Iterator<Item = Uuid>) -> Result<()> {
    let mut groups = groups.peekable();
    if groups.peek().is_some() && groups.all(|tenant| tenant == own) {
        return Ok(());
    }
    let text = "Within a tenant only people are linked who are in its Kanidm groups and in no other tenant's; anybody else \
                is for an administrator of the platform.";
    Err(Fault::new(Reason::PermissionDenied, text).with("permission", "users.write"))
}

/// Refuses a person whose groups give what the caller may not give: a caller who knows the user's password would act with
/// it from the next login on.
async fn may_give(change: &mut Change<'_>, candidate: &Candidate) -> Result<()> {
    let caller = change.principal()?;
    let given = store::kanidm::group_rights(&mut change.tx, &candidate.groups).await?;
    for (tenant, permissions) in &given {
        delegation::covers(caller, Some(*tenant), permissions)?;
    }
    match change.scope {
        Scope::Tenant(own) => within_tenant(own, given.iter().map(|(tenant, _)| *tenant)),
        Scope::Platform => Ok(()),
    }
}

/// Refuses a user or a person who is linked or is about to be; `refusal` is what the database says about the two.
fn unlinked(user: &users::User, refusal: Option<PersonRefusal>) -> Result<()> {
    if refusal == Some(PersonRefusal::Migrating) {
        return Err(Fault::new(Reason::MigrationOverlap, "A migration is at work on the user."));
    }
    if refusal.is_some() || user.kanidm_user_id.is_some() || user.auth_method != store::AuthMethod::Password {
        return Err(Fault::new(Reason::AlreadyExists, "The user or the person is linked already.")
            .with("field", "kanidm_user_id"));
    }
    Ok(())
}

/// Links the person to a user, who may sign in either way from then on.
pub(super) async fn link(
    change: &mut Change<'_>,
    id: Uuid,
    version: i64,
    candidate: Result<Candidate>,
) -> Result<users::User> {
    if change.principal()?.id == id {
        // With a stolen token an attacker could be the administrator who decides that they are the administrator.
        return Err(Fault::new(
            Reason::PermissionDenied,
            "One's own account is linked by proving both sides: see StartKanidmLogin.",
        ));
    }
    change.step_up(METHOD, Some(id)).await?;
    // Whether there is such a person is for those who have proved who they are.
    let candidate = candidate?;
    let user_person = authenticate::person_refusal(&mut change.tx, id, candidate.person).await?;
    let (aimed, user) = users::for_change(change, id, Some(version), Effect::Control).await?;
    if user.is_master_admin {
        return Err(admins::master());
    }
    may_give(change, &candidate).await?;
    unlinked(&user, user_person)?;
    let now = change.now;
    store::kanidm::link(&mut change.tx, &aimed, candidate.person, &candidate.name, now).await?;
    let event = users::about(change, EventType::UserKanidmLinked, &user)
        .detail("person", candidate.person)
        .detail("by", "administrator");
    let (_, event) = change.end_sessions(&aimed, "credential_changed", event).await?;
    change.record(event).await?;
    change.notify(Message::to_user(Kind::KanidmLinked, id)).await?;
    users::read(change, id).await
}
