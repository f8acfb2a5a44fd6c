//! Linking a person to one's own account by proving both sides in one sitting: a fresh proof by a factor that the account
//! has, with which the attempt begins, and a login at Kanidm by the same session. Names and addresses say nothing here.

use sidle_token::Epoch;

use super::KanidmLogin;
use super::attempt::{Holder, link_refusal, refused};
use super::store::{self as store, Link};
use crate::access::Call;
use crate::audit::{Event, EventType};
use crate::fault::Result;
use crate::kanidm::SignedIn;
use crate::mail::{Kind, Message};

impl KanidmLogin {
    /// Links `person` to the user of the session; from then on both vouch for it, and the user's other sessions end,
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
        let Holder { user_id, session_id } = holder;
        let prepare = |event: Event| self.recorder.prepare(event);
        let by_system = |event_type| Event::by_system(event_type, call.correlation_id);
        let kanidm = self.sessions.session_factory.kanidm_record(session_id, person.session, &person.refresh_token);
        let link = Link {
            user_id,
            session_id,
            person: person.person,
            groups: &person.groups,
            kanidm,
            now: self.context.now(),
            linked: prepare(
                Event::new(EventType::UserKanidmLinked, call)
                    .by_user(user_id)
                    .target("user", user_id)
                    .detail("person", person.person)
                    .detail("by", "user"),
            ),
            refused: prepare(refused(call).by_user(user_id).detail("person", person.person).detail("purpose", "link")),
            groups_changed: prepare(by_system(EventType::MembershipSynced)),
            migrated: prepare(by_system(EventType::UserMigrated)),
            notice: self.outbox.prepare(Message::to_user(Kind::KanidmLinked, user_id)),
        };
        let linked = store::link_kanidm(&self.db, &link).await?;
        self.recorder.wake();
        self.outbox.wake();
        if linked.outcome != "linked" {
            return Err(link_refusal(&linked.outcome));
        }
        let ended = linked.ended.unwrap_or_default();
        ended.iter().for_each(|session| self.sessions.revocations.end_session(*session));
        if linked.tokens_valid_from.is_some() {
            self.sessions.revocations.end_tokens(user_id, Epoch::of(linked.tokens_valid_from));
        }
        tracing::info!(event = "user_kanidm_linked", %user_id, %session_id);
        Ok(ended.len())
    }
}
