//! The operator's way back in: a new password for an administrator of the platform, set beside the database, without a
//! running service and without anything that the administrator has lost.

use uuid::Uuid;

use super::store::one_time;
use super::store::users::{self, AuthMethod, User, UserStatus};
use crate::access::names::email_key;
use crate::audit::{Event, EventType, Recorder};
use crate::authenticate::login::store::{factors, password};
use crate::context::Context;
use crate::credential::StoredHash;
use crate::db::{Db, Scope, Tx};
use crate::fault::{Fault, Result};
use crate::mail::{Kind, Message, Outbox};

/// What it is done with.
pub struct Operator<'a> {
    pub db: &'a Db,
    pub context: &'a Context,
    pub recorder: &'a Recorder,
    pub outbox: &'a Outbox,
}

/// What was done.
#[derive(Clone, Copy, Debug)]
pub struct Recovered {
    pub user_id: Uuid,
    /// How many sessions ended.
    pub sessions_revoked: usize,
    /// Whether the second factor was removed.
    pub second_factor_removed: bool,
    /// Whether one is left, which the next login asks for.
    pub has_second_factor: bool,
}

/// Sets the password of the administrator of the platform who has this address, removes any lock, ends their sessions and
/// tells them by mail. Removes the second factor where that is asked for.
///
/// # Errors
/// `INVALID_FIELD` where the address is not that of an administrator of the platform who may sign in with a password:
/// everybody else has administrators who can help them, and ways that the audit log attributes to a person.
pub async fn reset_administrator(
    operator: &Operator<'_>,
    email: &str,
    new: &StoredHash,
    removes_second_factor: bool,
) -> Result<Recovered> {
    let (now, correlation_id) = (operator.context.now(), operator.context.new_id());
    let mut tx = operator.db.begin(Scope::Platform).await?;
    let user = administrator(&mut tx, email).await?;
    let id = user.user_id;
    password::set(&mut tx, id, new, now).await?;
    users::unlock(&mut tx, id).await?;
    one_time::void(&mut tx, id, now).await?;
    let epoch = users::revoke_tokens(&mut tx, id).await?;
    let ended = users::end_sessions(&mut tx, id, None, now).await?;
    let about =
        |event| Event::by_system(event, correlation_id).tenant(user.tenant_id).target("user", id).reason("operator");
    let event = about(EventType::UserPasswordReset)
        .detail("tokens_valid_from", epoch.micros())
        .detail("principals", [id])
        .detail("sessions", &ended);
    operator.recorder.record(&mut tx, event).await?;
    operator.outbox.enqueue(&mut tx, Message::to_user(Kind::PasswordChanged, id)).await?;
    let had_factor = factors::has_totp(&mut tx, id).await?;
    let second_factor_removed = had_factor && removes_second_factor;
    if second_factor_removed {
        factors::remove(&mut tx, id).await?;
        operator.recorder.record(&mut tx, about(EventType::UserTotpDisabled)).await?;
        operator.outbox.enqueue(&mut tx, Message::to_user(Kind::TotpDisabled, id)).await?;
    }
    tx.commit().await?;
    let has_second_factor = had_factor && !second_factor_removed;
    Ok(Recovered { user_id: id, sessions_revoked: ended.len(), second_factor_removed, has_second_factor })
}

/// The administrator of this address, locked.
async fn administrator(tx: &mut Tx, email: &str) -> Result<User> {
    let no_administrator = || Fault::field("email", "is not the address of an administrator of the platform");
    let user = users::lock_by_email(tx, &email_key(email.trim())).await?.ok_or_else(no_administrator)?;
    if !users::administers_platform(tx, user.user_id).await? {
        return Err(no_administrator());
    }
    if user.status != UserStatus::Active {
        let status = user.status.as_str();
        return Err(Fault::field("email", format!("is that of an administrator whose status is {status}")));
    }
    if user.auth_method == AuthMethod::Kanidm {
        return Err(Fault::field("email", "is that of an administrator who signs in through Kanidm only"));
    }
    Ok(user)
}
