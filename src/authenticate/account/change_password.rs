//! Changing one's own password, with the present one: also the way out of having to.

use std::sync::Arc;

use uuid::Uuid;
use zeroize::Zeroizing;

use super::Account;
use super::step_up::person;
use super::store::{account, users};
use crate::access::Call;
use crate::audit::{Event, EventType};
use crate::authenticate::invalid_credentials;
use crate::authenticate::login::store::password as store;
use crate::credential::{Charge, StoredHash};
use crate::db::Scope;
use crate::fault::{Fault, Reason, Result};
use crate::mail::{Kind, Message};
use crate::session::Tokens;

/// A password that was changed.
pub(in crate::authenticate) struct Changed {
    /// New tokens of the caller's session.
    pub tokens: Tokens,
    /// How many other sessions ended.
    pub sessions_revoked: usize,
}

impl Account {
    /// Sets a new password. Every other session of the user ends, and so does every token of this one.
    ///
    /// # Errors
    /// `INVALID_FIELD` when the new password breaks the policy or is the present one; `INVALID_CREDENTIALS` when the present
    /// one is not right; `USER_REQUIRED`, `THROTTLED`, `OVERLOADED`, `UNAUTHENTICATED` when the session ended meanwhile.
    pub(in crate::authenticate) async fn change_password(
        &self,
        call: &Call,
        current: Zeroizing<String>,
        new: Zeroizing<String>,
    ) -> Result<Changed> {
        let (user, session) = person(call)?;
        let charge = self.hasher.charges().principal(user)?;
        // First, with its count: nothing is done with a new password for a caller who does not have the present one.
        let shown = self.login.show_password(call, &charge, user, current.clone()).await?;
        if *current == *new {
            return Err(Fault::field("new_password", "must be another than the present one"));
        }
        let hash = self.own_password(&charge, user, "new_password", &new).await?;

        let mut change = self.changes.begin(Scope::Platform).await?;
        // Of two changes with the same old password one comes too late.
        if store::lock(&mut change.tx, user).await?.is_none_or(|kept| kept != shown.password_version) {
            return Err(invalid_credentials());
        }
        let (now, tx) = (self.context.now(), &mut change.tx);
        // The session goes on with tokens that no client has seen yet: copies of the old ones are void.
        let Some(renewal) = self.sessions.session_factory.renew(tx, user, session, now).await? else {
            return Err(Fault::new(Reason::Unauthenticated, "The session has ended."));
        };
        store::change(tx, user, &hash, now).await?;
        let epoch = users::revoke_tokens(tx, user).await?;
        let ended = users::end_sessions(tx, user, Some(session), now).await?;
        let event = Event::new(EventType::UserPasswordChanged, call)
            .target("user", user)
            .detail("sessions", &ended)
            .detail("tokens_valid_from", epoch.micros());
        change.record(event).await?;
        change.notify(Message::to_user(Kind::PasswordChanged, user)).await?;
        let sessions_revoked = ended.len();
        change.revoke_tokens(user, epoch);
        change.revoke_sessions(ended);
        change.commit().await?;
        let tokens = self.sessions.session_factory.renewed_tokens(renewal, epoch)?;
        tracing::info!(event = "password_changed", user_id = %user, sessions_revoked);
        Ok(Changed { tokens, sessions_revoked })
    }

    /// The hash of a password that a user may set.
    async fn own_password(
        &self,
        charge: &Arc<Charge>,
        user: Uuid,
        field: &'static str,
        password: &Zeroizing<String>,
    ) -> Result<StoredHash> {
        let gone = || Fault::new(Reason::Unauthenticated, "The account does not exist any more.");
        let (account, tenants) = account::account(&self.db, user).await?.ok_or_else(gone)?;
        let who = account.user;
        let mut about = vec![who.email.as_str(), &who.full_name, who.username.as_deref().unwrap_or_default()];
        about.extend(tenants.iter().flat_map(|tenant| [tenant.slug.as_str(), &tenant.name]).take(20));
        self.hasher.new_password(charge, &self.policy, field, password, &about).await
    }
}
