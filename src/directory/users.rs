//! Users: creating, editing, locking, disabling and enabling.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::made::{self, Made};
pub(super) use super::store::users::{Filter, User};
use super::store::{self, UserStatus};
use super::{Change, Directory, admins, memberships};
use crate::access::delegation::{Aimed, Effect};
use crate::access::names::{email_key, username_key};
use crate::access::replay::{Answer, ChangeRequest};
use crate::access::{Call, etag};
use crate::audit::{Event, EventType};
use crate::credential::StoredHash;
use crate::db::Scope;
use crate::fault::{Fault, Result};
use crate::mail::{Kind, Message};

/// What an administrator says about a new user.
pub(super) struct NewUser {
    pub tenant_id: Option<Uuid>,
    pub email: String,
    pub username: Option<String>,
    pub full_name: String,
    pub must_change_password: bool,
    pub email_verified: bool,
    pub role_ids: Vec<Uuid>,
}

/// What an administrator changes about a user; none leaves it as it is.
#[derive(Default)]
pub(super) struct Edit {
    pub email: Option<String>,
    pub username: Option<Option<String>>,
    pub full_name: Option<String>,
    pub must_change_password: Option<bool>,
    pub takes_second_factor: bool,
}

impl Edit {
    /// Whether it gives power over the account: with the address goes the right to reset the password, and until a
    /// demanded password is set, nothing is permitted.
    fn takes_over(&self) -> bool {
        self.email.is_some()
            || self.username.is_some()
            || self.must_change_password.is_some()
            || self.takes_second_factor
    }

    /// The user as edited. Another address is not verified yet.
    fn apply(self, mut user: User) -> User {
        if let Some(email) = self.email.filter(|email| *email != user.email) {
            (user.verified_at, user.verified_by_tenant) = (None, false);
            user.email = email;
        }
        user.username = self.username.unwrap_or(user.username);
        user.full_name = self.full_name.unwrap_or(user.full_name);
        user.must_change_password = self.must_change_password.unwrap_or(user.must_change_password);
        user
    }
}

/// What callers need to change users.
const WRITE: &str = "users.write";
const CREATE: &str = "sidle.v1.DirectoryService/CreateUser";
const UPDATE: &str = "sidle.v1.DirectoryService/UpdateUser";
const ENABLE: &str = "sidle.v1.DirectoryService/EnableUser";
const UNLOCK: &str = "sidle.v1.DirectoryService/UnlockUser";

/// A lock that no clock ends: 9999-12-31T23:59:59Z.
pub(super) const NO_EXPIRY: DateTime<Utc> = DateTime::from_timestamp(253_402_300_799, 0).expect("a valid time");

/// The tenant and the roles of a user whom the caller may create, having proven afresh who they are.
async fn permit(change: &mut Change<'_>, new: &NewUser) -> Result<(Uuid, Vec<Uuid>)> {
    let tenant_id = change.tenant(new.tenant_id)?;
    store::tenants::hold(&mut change.tx, tenant_id).await?.ok_or_else(|| Fault::not_found("tenant"))?;
    let roles = memberships::roles_for_new_user(change, tenant_id, &new.role_ids).await?;
    // Who sets address or password of an account can sign in as it after the session has ended, with all its roles.
    change.step_up_of_people(CREATE, None).await?;
    Ok((tenant_id, roles))
}

impl Directory {
    /// Creates a user for a call, with the password that the administrator chose, unless that is empty.
    pub(super) async fn create_user<A: Answer>(
        &self,
        call: &Call,
        request: &ChangeRequest<'_>,
        new: NewUser,
        password: &Zeroizing<String>,
        answer: impl FnOnce(User) -> A,
    ) -> Result<A> {
        call.principal()?.authorize(WRITE, new.tenant_id)?;
        let mut hash = None;
        // Before the transaction: a hash takes long, and connections are few.
        if !password.is_empty() {
            let charge = self.hasher.charges().principal(call.principal()?.id)?;
            // What is refused, or has been answered before, costs no hash. Not committed: the proof stays good.
            let mut asked = self.change(call, WRITE).await?;
            if let Some(first) = asked.repeated(request).await? {
                return Ok(first);
            }
            permit(&mut asked, &new).await?;
            drop(asked);
            let about = [new.email.as_str(), new.username.as_deref().unwrap_or_default(), &new.full_name];
            let hashed = self.hasher.new_password(&charge, &self.policy, "initial_password", password, &about).await?;
            hash = Some(hashed);
        }
        let mut change = self.change_of_keys(call, WRITE).await?;
        if let Some(first) = change.repeated(request).await? {
            return Ok(first);
        }
        let user = create(&mut change, new, hash).await?;
        change.answer(answer(user)).await
    }
}

/// Creates a user with roles in the home tenant.
async fn create(change: &mut Change<'_>, new: NewUser, password: Option<StoredHash>) -> Result<User> {
    let (tenant_id, roles) = permit(change, &new).await?;
    let user_id = change.context().new_id();
    insert(change, user_id, tenant_id, &new, password.as_ref()).await?;
    let now = change.now;
    for role_id in &roles {
        let id = change.context().new_id();
        store::memberships::insert_for_new_user(&mut change.tx, id, tenant_id, user_id, *role_id, now).await?;
    }
    let roles: Vec<String> = roles.iter().map(Uuid::to_string).collect();
    let event = Event::new(EventType::UserCreated, change.call)
        .tenant(tenant_id)
        .target("user", user_id)
        .detail("roles", roles)
        .detail("with_password", password.is_some())
        .personal("email", &new.email)
        .personal("username", &new.username)
        .personal("full_name", &new.full_name);
    change.record(event).await?;
    if !new.email_verified {
        change.ask_to_verify(user_id).await?;
    }
    read(change, user_id).await
}

/// Stores a new user.
async fn insert(
    change: &mut Change<'_>,
    user_id: Uuid,
    tenant_id: Uuid,
    new: &NewUser,
    password: Option<&StoredHash>,
) -> Result<()> {
    let now = change.now;
    let username_key = new.username.as_deref().and_then(username_key);
    let insert = store::users::Insert {
        user_id,
        tenant_id,
        email: &new.email,
        email_key: &email_key(&new.email),
        username: new.username.as_deref(),
        username_key: username_key.as_deref(),
        full_name: &new.full_name,
        status: if new.email_verified { UserStatus::Active } else { UserStatus::PendingVerification },
        password,
        must_change_password: new.must_change_password,
        verified_at: new.email_verified.then_some(now),
        verified_by_tenant: new.email_verified && change.scope != Scope::Platform,
        is_master_admin: false,
        now,
    };
    store::users::insert(&mut change.tx, insert).await
}

/// Edits a user.
pub(super) async fn update(change: &mut Change<'_>, id: Uuid, version: i64, edit: Edit) -> Result<User> {
    let takes_over = edit.takes_over();
    let effect = if takes_over { Effect::Control } else { Effect::Here };
    if edit.must_change_password == Some(false) {
        lock_both(change, id).await?;
    }
    let (aimed, before) = for_change(change, id, Some(version), effect).await?;
    if takes_over && before.is_master_admin && change.principal()?.id != id {
        return Err(admins::master());
    }
    let moves = edit.email.as_ref().is_some_and(|email| *email != before.email);
    let takes_second_factor = edit.takes_second_factor && before.has_second_factor;
    if moves || takes_second_factor {
        change.step_up(UPDATE, Some(id)).await?;
    } else if before.must_change_password && edit.must_change_password == Some(false) {
        // The administrator who set that password may act with the user's rights from then on.
        change.step_up_of_people(UPDATE, Some(id)).await?;
    }
    let after = edit.apply(before.clone());
    let username_key = after.username.as_deref().and_then(username_key);
    store::users::update(&mut change.tx, &aimed, &after, &email_key(&after.email), username_key.as_deref()).await?;
    let mut event = about(change, EventType::UserUpdated, &after).old_new(editable(&before), editable(&after));
    if after.must_change_password && !before.must_change_password {
        // Until the new password is set nothing is permitted: neither is what older tokens say.
        event = change.end_tokens(&aimed, event).await?;
    }
    change.record(event).await?;
    if takes_second_factor {
        take_second_factor(change, &aimed, &before).await?;
    }
    if moves {
        tell_of_new_address(change, &before).await?;
    }
    read(change, id).await
}

/// Removes the second factor of a user who has lost it, and ends the user's sessions.
async fn take_second_factor(change: &mut Change<'_>, aimed: &Aimed, user: &User) -> Result<()> {
    store::users::remove_second_factor(&mut change.tx, aimed.for_control()?).await?;
    let event = about(change, EventType::UserTotpDisabled, user).reason("administrator");
    let (_, event) = change.end_sessions(aimed, "credential_changed", event).await?;
    change.record(event).await?;
    change.notify(Message::to_user(Kind::TotpDisabled, user.user_id)).await
}

/// Notifies both addresses, and asks the new one to be confirmed: until it is, no password is reset through it.
async fn tell_of_new_address(change: &mut Change<'_>, before: &User) -> Result<()> {
    let id = before.user_id;
    let old = Message::to_address(Kind::EmailChanged, Some(id), &before.email);
    change.notify(old.with("is_old", true)).await?;
    change.notify(Message::to_user(Kind::EmailChanged, id).with("is_old", false)).await?;
    change.ask_to_verify(id).await
}

fn editable(user: &User) -> serde_json::Value {
    json!({
        "email": user.email,
        "username": user.username,
        "full_name": user.full_name,
        "must_change_password": user.must_change_password,
    })
}

/// Deletes a user, so that it can be brought back, and ends the keys that the user made: says how many sessions ended
/// and what there was of keys and accounts.
pub(super) async fn delete(change: &mut Change<'_>, id: Uuid, version: Option<i64>, keep: bool) -> Result<(i32, Made)> {
    let guard = admins::guard(change).await?;
    let (aimed, user) = for_change(change, id, version, Effect::Everywhere).await?;
    admins::require_not_master(&user)?;
    let now = change.now;
    store::users::delete(&mut change.tx, &aimed, now).await?;
    guard.still_has_one(change).await?;
    let event = about(change, EventType::UserDeleted, &user);
    let (sessions, event) = change.end_sessions(&aimed, "user_disabled", event).await?;
    change.record(event).await?;
    Ok((sessions, made::end_made_by(change, &aimed, keep, false).await?))
}

/// Locks a user until `duration` is over or, without one, until further notice; sessions and tokens end immediately.
pub(super) async fn lock(change: &mut Change<'_>, id: Uuid, duration: Option<TimeDelta>) -> Result<(User, i32)> {
    let guard = admins::guard(change).await?;
    let (aimed, user) = for_change(change, id, None, Effect::Everywhere).await?;
    admins::require_not_master(&user)?;
    let until = duration.and_then(|duration| change.now.checked_add_signed(duration)).unwrap_or(NO_EXPIRY);
    store::users::set_lock(&mut change.tx, &aimed, until).await?;
    guard.still_has_one(change).await?;
    let event = about(change, EventType::UserLocked, &user).reason("administrator").detail("locked_until", until);
    let (sessions, event) = change.end_sessions(&aimed, "administrator", event).await?;
    change.record(event).await?;
    Ok((read(change, id).await?, sessions))
}

/// Removes any lock.
pub(super) async fn unlock(change: &mut Change<'_>, id: Uuid) -> Result<User> {
    lock_both(change, id).await?;
    let (aimed, user) = for_change(change, id, None, Effect::Everywhere).await?;
    if user.locked_until.is_none() && user.failed_login_attempts == 0 {
        return Ok(user);
    }
    // Also after failures: unlocking again and again allows endless guesses.
    change.step_up_of_people(UNLOCK, Some(id)).await?;
    store::users::clear_lock(&mut change.tx, &aimed).await?;
    let event = about(change, EventType::UserUnlocked, &user).detail("failed_attempts", user.failed_login_attempts);
    change.record(event).await?;
    read(change, id).await
}

/// Disables a user and ends all access.
pub(super) async fn disable(change: &mut Change<'_>, id: Uuid, version: Option<i64>) -> Result<(User, i32)> {
    let guard = admins::guard(change).await?;
    let (aimed, user) = for_change(change, id, version, Effect::Everywhere).await?;
    admins::require_not_master(&user)?;
    if user.status == UserStatus::Disabled {
        return Ok((user, 0));
    }
    store::users::set_status(&mut change.tx, &aimed, UserStatus::Disabled, verified(&user)).await?;
    guard.still_has_one(change).await?;
    let event = about(change, EventType::UserDisabled, &user).detail("old_status", user.status.as_str());
    let (sessions, event) = change.end_sessions(&aimed, "user_disabled", event).await?;
    change.record(event).await?;
    Ok((read(change, id).await?, sessions))
}

/// Enables a disabled user, and counts the address as verified where the caller says so, whatever the status was.
///
/// A password that an administrator has given stays. One that an import has brought to a user who never verified the address
/// goes: whoever registered with the old application chose it, for an address that need not be theirs.
pub(super) async fn enable(
    change: &mut Change<'_>,
    id: Uuid,
    version: Option<i64>,
    email_verified: bool,
) -> Result<User> {
    lock_both(change, id).await?;
    // Verifying the address decides who may set a new password through it.
    let effect = if email_verified { Effect::Control } else { Effect::Everywhere };
    let (aimed, user) = for_change(change, id, version, effect).await?;
    let verification = match verified(&user) {
        // The platform's verification stands by itself, also where a tenant has given its own.
        (at, _) if email_verified && change.scope == Scope::Platform => (at.or(Some(change.now)), false),
        (None, _) if email_verified => (Some(change.now), true),
        as_before => as_before,
    };
    let (was_disabled, verifies) = (user.status == UserStatus::Disabled, verification != verified(&user));
    if !was_disabled && !verifies {
        return Ok(user);
    }
    change.step_up_of_people(ENABLE, Some(id)).await?;
    // A user who was created in Kanidm never has to verify the address here.
    let counts = verification.0.is_some() || user.auth_method == store::AuthMethod::Kanidm;
    let status = if counts { UserStatus::Active } else { UserStatus::PendingVerification };
    let dropped = verifies && store::users::drop_imported_password(&mut change.tx, &aimed).await?;
    store::users::set_status(&mut change.tx, &aimed, status, verification).await?;
    if dropped {
        let event = about(change, EventType::UserCredentialsRemoved, &user).detail("password", true);
        change.record(event.detail("second_factor", false)).await?;
        change.notify(Message::to_user(Kind::CredentialsRemoved, id)).await?;
    }
    if was_disabled {
        let event = about(change, EventType::UserEnabled, &user).detail("new_status", status.as_str());
        change.record(event).await?;
    }
    if verifies {
        let event = about(change, EventType::UserEmailVerified, &user)
            .reason("administrator")
            .detail("old_status", user.status.as_str())
            .detail("new_status", status.as_str())
            .detail("by_tenant", verification.1);
        change.record(event).await?;
    }
    read(change, id).await
}

/// When the address was shown to be the user's, and whether only the tenant says so.
fn verified(user: &User) -> (Option<DateTime<Utc>>, bool) {
    (user.verified_at, user.verified_by_tenant)
}

/// Locks the user and the caller, who may have to prove who they are, in the order in which rows of users are locked.
async fn lock_both(change: &mut Change<'_>, id: Uuid) -> Result<()> {
    let caller = change.principal()?.id;
    store::tokens::lock_users(&mut change.tx, &[id, caller]).await
}

/// The user as the caller may change it, locked: found in the caller's scope, unchanged since `version`, and without
/// rights that the caller lacks.
pub(super) async fn for_change(
    change: &mut Change<'_>,
    id: Uuid,
    version: Option<i64>,
    effect: Effect,
) -> Result<(Aimed, User)> {
    let user = store::users::lock(&mut change.tx, id).await?.ok_or_else(|| Fault::not_found("user"))?;
    let aimed = change.aim(id, effect).await?;
    if version.is_some_and(|version| version != user.version) {
        return Err(etag::mismatch("user"));
    }
    Ok((aimed, user))
}

pub(super) fn about(change: &Change<'_>, event: EventType, user: &User) -> Event {
    Event::new(event, change.call).tenant(user.tenant_id).target("user", user.user_id)
}

pub(super) async fn read(change: &mut Change<'_>, id: Uuid) -> Result<User> {
    store::users::by_id(&mut change.tx, id, true).await?.ok_or_else(|| Fault::not_found("user"))
}
