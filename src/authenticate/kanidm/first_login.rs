//! First logins: a user is made of a person whom no user is linked to, where a tenant of the person's groups wants that.
//! No user is found by address or name.

use uuid::Uuid;

use super::KanidmLogin;
use super::store::{self as store, Newcomer, User};
use crate::access::{Call, input, names};
use crate::audit::{Event, EventType};
use crate::authenticate::tenant_required;
use crate::change::Change;
use crate::fault::{Fault, Reason, Result};
use crate::kanidm::SignedIn;

/// Why no user was made of a person.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FirstLoginRefusal {
    /// No tenant wants it.
    NotLinked,
    /// Several do.
    TenantRequired(Vec<Uuid>),
    /// Kanidm reports no address.
    NoMail,
    /// The tenant takes no such addresses.
    ForeignDomain,
    /// The address is another user's.
    MailTaken,
    /// The person's id is another user's.
    IdTaken,
}

impl FirstLoginRefusal {
    /// Its name in events.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NotLinked => "not_linked",
            Self::TenantRequired(_) => "tenant_required",
            Self::NoMail => "no_mail",
            Self::ForeignDomain => "foreign_domain",
            Self::MailTaken => "mail_taken",
            Self::IdTaken => "id_taken",
        }
    }
}

impl From<FirstLoginRefusal> for Fault {
    fn from(why: FirstLoginRefusal) -> Self {
        match why {
            FirstLoginRefusal::TenantRequired(choices) => tenant_required(&choices),
            _ => not_linked(),
        }
    }
}

/// The refusal of a person to whom no user is linked, whatever the reason.
pub(super) fn not_linked() -> Fault {
    Fault::new(Reason::PersonNotLinked, "No user is linked to this Kanidm person.")
}

/// The tenant that a person becomes a user of: the one asked for or the only one, of those that want it.
fn home(choices: Vec<Uuid>, asked: Option<Uuid>) -> Result<Uuid, FirstLoginRefusal> {
    match (asked, choices.as_slice()) {
        (_, []) => Err(FirstLoginRefusal::NotLinked),
        (Some(asked), choices) => choices.contains(&asked).then_some(asked).ok_or(FirstLoginRefusal::NotLinked),
        (None, [only]) => Ok(*only),
        (None, _) => Err(FirstLoginRefusal::TenantRequired(choices)),
    }
}

impl KanidmLogin {
    /// Makes a user of the person, with the person's id, unless another login of the person comes first; gives the
    /// change that the login goes on with, and the user, whose row is locked.
    pub(super) async fn first_login(
        &self,
        call: &Call,
        mut change: Change,
        person: &SignedIn,
        asked: Option<Uuid>,
        session_id: Uuid,
    ) -> Result<(Change, Result<User, FirstLoginRefusal>)> {
        let newcomer = match self::newcomer(&mut change, person, asked).await? {
            Ok(newcomer) => newcomer,
            Err(why) => return Ok((change, Err(why))),
        };
        // Nothing is held so far. An import in progress may be writing the same address; it may take minutes.
        drop(change);
        let mut change = self.changes.begin_contended_for(newcomer.tenant_id).await?;
        // Decided again: while this waited, the tenant may have stopped making users, or taking such addresses.
        let newcomer = match self::newcomer(&mut change, person, asked).await? {
            Ok(newcomer) => newcomer,
            Err(why) => return Ok((change, Err(why))),
        };
        let now = change.now;
        if store::make_user(&mut change.tx, person.person, &newcomer, now).await? {
            change.record(created(call, person.person, &newcomer, session_id)).await?;
        }
        // Not made, and linked all the same: another login of this person came first. Otherwise the id or the address
        // is another user's, which gives the person nothing: an administrator decides whether the two are one.
        let user = match store::lock_linked(&mut change.tx, person.person).await? {
            Some(user) => Ok(user),
            None if store::is_id_taken(&mut change.tx, person.person).await? => Err(FirstLoginRefusal::IdTaken),
            None if store::is_mail_taken(&mut change.tx, &newcomer.email_key).await? => {
                Err(FirstLoginRefusal::MailTaken)
            }
            None => Err(FirstLoginRefusal::IdTaken),
        };
        Ok((change, user))
    }
}

fn created(call: &Call, user: Uuid, newcomer: &Newcomer, session_id: Uuid) -> Event {
    Event::by_system(EventType::UserCreated, call.correlation_id)
        .target("user", user)
        .tenant(newcomer.tenant_id)
        .session(session_id)
        .detail("source", "kanidm_first_login")
        .detail("with_password", false)
        .personal("email", &newcomer.email)
        .personal("full_name", &newcomer.full_name)
}

/// What the person would be as a user, and of which tenant.
async fn newcomer(
    change: &mut Change,
    person: &SignedIn,
    asked: Option<Uuid>,
) -> Result<Result<Newcomer, FirstLoginRefusal>> {
    let tenant_id = match home(store::tenants_that_make_users(&mut change.tx, &person.groups).await?, asked) {
        Ok(tenant) => tenant,
        Err(why) => return Ok(Err(why)),
    };
    // The address that Kanidm reports is taken for what it is: one that no user has verified.
    let email = person.email.as_deref().and_then(|email| input::email("email", email).ok());
    let Some(email) = email else { return Ok(Err(FirstLoginRefusal::NoMail)) };
    let email_key = names::email_key(&email);
    if !store::accepts_address(&mut change.tx, tenant_id, &email_key).await? {
        return Ok(Err(FirstLoginRefusal::ForeignDomain));
    }
    let name = person.name.as_deref().and_then(|name| input::text("name", name, 200).ok());
    Ok(Ok(Newcomer { tenant_id, email, email_key, full_name: name.unwrap_or_default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_gets_a_home_that_wants_them_and_chooses_among_several() {
        let [a, b, c] = [1, 2, 3].map(Uuid::from_u128);
        assert_eq!(home(vec![], None), Err(FirstLoginRefusal::NotLinked));
        assert_eq!(home(vec![], Some(a)), Err(FirstLoginRefusal::NotLinked));
        assert_eq!(home(vec![a], None), Ok(a));
        assert_eq!(home(vec![a], Some(b)), Err(FirstLoginRefusal::NotLinked));
        assert_eq!(home(vec![a, b], Some(b)), Ok(b));
        assert_eq!(home(vec![a, b], Some(c)), Err(FirstLoginRefusal::NotLinked));
        assert_eq!(home(vec![a, b], None), Err(FirstLoginRefusal::TenantRequired(vec![a, b])));
    }
}
