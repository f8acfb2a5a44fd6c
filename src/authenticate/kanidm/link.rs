//! Linking a person to one's own account by proving both sides in one sitting: a fresh proof by a factor that the account
//! has, with which the attempt begins, and a login at Kanidm by the same session. Names and addresses say nothing here.

use sidle_token::Epoch;

use super::KanidmLogin;
use super::attempt::{Holder, refused};
use super::link_refusal::{LinkRefusal, hold};
use super::store::{self as store, User};
use crate::access::Call;
use crate::audit::{Event, EventType};
use crate::change::Change;
use crate::db::Scope;
use crate::fault::Result;
use crate::kanidm::SignedIn;
use crate::mail::{Kind, Message};

/// A person whom Kanidm has confirmed, and the session whose user links them.
struct Link<'a> {
    call: &'a Call,
    holder: Holder,
    person: &'a SignedIn,
}

impl Link<'_> {
    fn about(&self, user: Option<&User>, event: Event) -> Event {
        let event = event.target("user", self.holder.user_id).session(self.holder.session_id);
        if let Some(user) = user { event.tenant(user.tenant_id) } else { event }
    }

    /// The event of a refusal.
    fn refused(&self, user: Option<&User>, refusal: LinkRefusal) -> Event {
        let event = refused(self.call).by_user(self.holder.user_id);
        let event = event.detail("person", self.person.person).detail("purpose", "link");
        self.about(user, event).reason(refusal.as_str())
    }
}

impl KanidmLogin {
    /// Links `person` to the user of the session; from then on both confirm it, and the user's other sessions end,
    /// whose number this gives.
    ///
    /// # Errors
    /// `INVALID_FACTOR_STATE` when the password must be changed first;
    /// `ALREADY_EXISTS` when the user has a person or the person a user; `MIGRATION_OVERLAP` while a migration is making a
    /// person for the user.
    pub(in crate::authenticate) async fn link_person(
        &self,
        call: &Call,
        holder: Holder,
        person: &SignedIn,
    ) -> Result<usize> {
        let link = Link { call, holder, person };
        let Holder { user_id, session_id } = holder;
        let mut change = self.changes.begin(Scope::Platform).await?;
        // Items of migrations before users, as the engine locks them.
        let taken = store::person_refusal(&mut change.tx, user_id, person.person).await?;
        let (user, refusal) = hold(&mut change.tx, user_id, session_id).await?;
        let refused = |refusal| link.refused(user.as_ref(), refusal);
        if let Some(refusal) = refusal.or(taken.map(LinkRefusal::from)) {
            return self.refuse(change, refused(refusal), refusal).await;
        }
        let now = change.now;
        if !store::link(&mut change.tx, user_id, person.person, now).await? {
            // The statement took its transaction along, in which nothing was to be kept.
            drop(change);
            let change = self.changes.begin(Scope::Platform).await?;
            return self.refuse(change, refused(LinkRefusal::PersonTaken), LinkRefusal::PersonTaken).await;
        }
        let count = self.apply_link(&mut change, &link, user.as_ref()).await?;
        change.commit().await?;
        tracing::info!(event = "user_kanidm_linked", %user_id, %session_id);
        Ok(count)
    }

    /// Has the session depend on Kanidm and ends the user's others; gives the user the memberships that the person's groups
    /// give. Says how many sessions ended.
    async fn apply_link(&self, change: &mut Change, link: &Link<'_>, user: Option<&User>) -> Result<usize> {
        let Link { call, holder: Holder { user_id, session_id }, person } = *link;
        let now = change.now;
        let sealed = self.sessions.session_factory.seal_kanidm(session_id, &person.refresh_token);
        store::link_session(&mut change.tx, session_id, person.session, &sealed).await?;
        let ended = store::end_other_sessions(&mut change.tx, user_id, session_id, now).await?;
        let linked = link.about(user, Event::new(EventType::UserKanidmLinked, call).by_user(user_id));
        let linked = linked.detail("person", person.person).detail("by", "user").detail("sessions", &ended);
        change.record(linked).await?;
        let by_system = |event| link.about(user, Event::by_system(event, call.correlation_id)).not_about_target();
        let groups_changed = self.recorder.prepare(by_system(EventType::MembershipSynced));
        store::sync_groups(&mut change.tx, user_id, &person.groups, now, &groups_changed).await?;
        change.record(by_system(EventType::UserMigrated)).await?;
        change.notify(Message::to_user(Kind::KanidmLinked, user_id)).await?;
        if let Some(epoch) = store::epoch(&mut change.tx, user_id).await? {
            change.revoke_tokens(user_id, Epoch::of(Some(epoch)));
        }
        let count = ended.len();
        change.revoke_sessions(ended);
        Ok(count)
    }

    /// Writes down that a person was not linked.
    async fn refuse(&self, mut change: Change, event: Event, refusal: LinkRefusal) -> Result<usize> {
        change.record(event).await?;
        change.commit().await?;
        Err(refusal.into())
    }
}
