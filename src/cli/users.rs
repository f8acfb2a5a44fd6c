//! `sidle users`.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::connect::{Caller, random_id};
use super::failure::{Failure, Result};
use super::import::Import;
use super::lookup::{self, pages};
use super::names::Names;
use super::output::{Out, dash, time, word, yes};
use super::{Global, prompt};
use crate::proto::*;

/// Commands on users.
#[derive(Subcommand)]
pub(super) enum Command {
    /// List users
    List {
        /// Slug or id of their home tenant
        #[arg(long)]
        tenant: Option<String>,
        /// Only with this status
        #[arg(long, value_enum)]
        status: Option<Status>,
        /// Only who sign in this way
        #[arg(long, value_enum)]
        auth_method: Option<Method>,
        /// Only locked ones
        #[arg(long)]
        locked: bool,
        /// Most users to print
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show a user and the user's roles
    Get {
        /// Id, e-mail address or username
        user: String,
    },
    /// Create a user
    Create(Create),
    /// Disable a user and end all sessions
    Disable {
        /// Id, e-mail address or username
        user: String,
    },
    /// Enable a disabled user again, or confirm the e-mail address of one
    Enable {
        /// Id, e-mail address or username
        user: String,
        /// Count the e-mail address as verified from now on, whatever the status: who waits for that may sign in
        #[arg(long)]
        email_verified: bool,
    },
    /// Lock a user and end all of their sessions
    Lock {
        /// Id, e-mail address or username
        user: String,
        /// How long, in minutes; until `unlock` when not given
        #[arg(long)]
        minutes: Option<u32>,
    },
    /// Remove any lock
    Unlock {
        /// Id, e-mail address or username
        user: String,
    },
    /// Remove the second factor of a user who has lost it; the user's sessions end
    RemoveMfa {
        /// Id, e-mail address or username
        user: String,
        /// Only check
        #[arg(long)]
        dry_run: bool,
    },
    /// Link a user to a person that exists in Kanidm already; the user's sessions end
    Link {
        /// Id, e-mail address or username
        user: String,
        /// uuid of the person in Kanidm
        #[arg(long, value_name = "UUID")]
        person: String,
        /// Only check
        #[arg(long)]
        dry_run: bool,
    },
    /// Import legacy users from a CSV or JSON lines file
    Import(Import),
}

/// A new user.
#[derive(Args)]
pub(super) struct Create {
    /// E-mail address
    #[arg(long)]
    email: String,
    /// Slug or id of the home tenant; the one acted in when not given
    #[arg(long)]
    tenant: Option<String>,
    /// Name to sign in with, besides the e-mail address
    #[arg(long, default_value = "")]
    username: String,
    /// Name shown to people
    #[arg(long, default_value = "")]
    full_name: String,
    /// Name or id of a role in the home tenant; may be given several times
    #[arg(long = "role")]
    roles: Vec<String>,
    /// Count the e-mail address as verified
    #[arg(long)]
    email_verified: bool,
    /// Ask for a password to begin with, which the first login must change
    #[arg(long)]
    with_password: bool,
    /// Let the first login keep that password
    #[arg(long, requires = "with_password")]
    keep_password: bool,
    /// Only check
    #[arg(long)]
    dry_run: bool,
}

/// Status of a user.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Status {
    Active,
    PendingVerification,
    Disabled,
}

/// How a user signs in.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Method {
    Password,
    Kanidm,
    Dual,
}

impl Command {
    pub async fn run(self, global: &Global, out: &Out) -> Result<ExitCode> {
        if let Self::Import(import) = self {
            return import.run(global, out).await;
        }
        let caller = Caller::open(global)?;
        match self {
            Self::List { tenant, status, auth_method, locked, limit } => {
                let asked = ListUsersRequest {
                    tenant_id: lookup::optional_tenant_id(&caller, tenant.as_deref()).await?,
                    status: status.map(status_number).unwrap_or_default(),
                    auth_method: auth_method.map(method_number).unwrap_or_default(),
                    locked_only: locked,
                    ..Default::default()
                };
                list(&caller, asked, limit, out).await?;
            }
            Self::Get { user } => get(&caller, &user, out).await?,
            Self::Create(create) => create.run(&caller, out).await?,
            Self::Disable { user } => disable(&caller, &user, out).await?,
            Self::Enable { user, email_verified } => enable(&caller, &user, email_verified, out).await?,
            Self::Lock { user, minutes } => lock(&caller, &user, minutes, out).await?,
            Self::Unlock { user } => unlock(&caller, &user, out).await?,
            Self::RemoveMfa { user, dry_run } => remove_mfa(&caller, &user, dry_run, out).await?,
            Self::Link { user, person, dry_run } => link(&caller, &user, person, dry_run, out).await?,
            Self::Import(_) => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn disable(caller: &Caller, user: &str, out: &Out) -> Result<()> {
    let request = DisableUserRequest { user_id: lookup::user_id(caller, user).await?, etag: String::new() };
    let answer = caller.directory().await?.disable_user(request).await?.into_inner();
    let ended = answer.sessions_revoked;
    done(answer.user, &format!("is disabled; {ended} sessions have ended"), out)
}

async fn enable(caller: &Caller, user: &str, email_verified: bool, out: &Out) -> Result<()> {
    let user_id = lookup::user_id(caller, user).await?;
    let request = EnableUserRequest { user_id, etag: String::new(), email_verified };
    let call = async |request| Ok(caller.directory().await?.enable_user(request).await?);
    let answer = caller.proving(request, call).await?;
    let user = answer.user.unwrap_or_default();
    let verified = if user.verified_at.is_some() { "" } else { ", and the address is not verified" };
    let what = format!("is {}{verified}", status_word(user.status));
    done(Some(user), &what, out)
}

async fn lock(caller: &Caller, user: &str, minutes: Option<u32>, out: &Out) -> Result<()> {
    let user_id = lookup::user_id(caller, user).await?;
    let duration = minutes.map(|minutes| prost_types::Duration { seconds: i64::from(minutes) * 60, nanos: 0 });
    let request = LockUserRequest { user_id, duration, ..Default::default() };
    let answer = caller.directory().await?.lock_user(request).await?.into_inner();
    let ended = answer.sessions_revoked;
    done(answer.user, &format!("is locked; {ended} sessions have ended"), out)
}

async fn unlock(caller: &Caller, user: &str, out: &Out) -> Result<()> {
    let request = UnlockUserRequest { user_id: lookup::user_id(caller, user).await? };
    let call = async |request| Ok(caller.directory().await?.unlock_user(request).await?);
    let answer = caller.proving(request, call).await?;
    done(answer.user, "is not locked", out)
}

async fn remove_mfa(caller: &Caller, user: &str, validate_only: bool, out: &Out) -> Result<()> {
    let user = lookup::user(caller, user).await?;
    if !user.has_second_factor {
        return Err(Failure::new(format!("{} has no second factor", user.email)));
    }
    let request = UpdateUserRequest {
        user: Some(User { has_second_factor: false, ..user }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["has_second_factor".to_owned()] }),
        validate_only,
    };
    let call = async |request| Ok(caller.directory().await?.update_user(request).await?);
    let answer = caller.proving(request, call).await?;
    let what = if validate_only { "could sign in" } else { "signs in" };
    done(answer.user, &format!("{what} with the password alone until another second factor is enrolled"), out)
}

async fn link(caller: &Caller, user: &str, kanidm_user_id: String, dry_run: bool, out: &Out) -> Result<()> {
    let user = lookup::user(caller, user).await?;
    let request = LinkKanidmPersonRequest {
        request_id: random_id(&caller.context),
        validate_only: dry_run,
        user_id: user.user_id,
        etag: user.etag,
        kanidm_user_id,
    };
    let call = async |request| Ok(caller.directory().await?.link_kanidm_person(request).await?);
    let answer = caller.proving(request, call).await?;
    let what = if dry_run { "could be linked" } else { "is linked, and may sign in either way" };
    done(answer.user, what, out)
}

fn status_number(status: Status) -> i32 {
    match status {
        Status::Active => UserStatus::Active,
        Status::PendingVerification => UserStatus::PendingVerification,
        Status::Disabled => UserStatus::Disabled,
    }
    .into()
}

fn method_number(method: Method) -> i32 {
    match method {
        Method::Password => AuthMethod::Password,
        Method::Kanidm => AuthMethod::Kanidm,
        Method::Dual => AuthMethod::Dual,
    }
    .into()
}

fn status_word(status: i32) -> String {
    word(status, UserStatus::as_str_name, "USER_STATUS_")
}

fn method_word(method: i32) -> String {
    word(method, AuthMethod::as_str_name, "AUTH_METHOD_")
}

/// Says what a user is now.
fn done(user: Option<User>, what: &str, out: &Out) -> Result<()> {
    let user = user.unwrap_or_default();
    if out.is_json() { out.message(&user) } else { out.line(&format!("{} {what}.", user.email)) }
}

async fn list(caller: &Caller, asked: ListUsersRequest, limit: usize, out: &Out) -> Result<()> {
    let (users, more) = pages(limit, |page_size, page_token| {
        let request = ListUsersRequest { page_size, page_token, ..asked.clone() };
        async move {
            let answer = caller.directory().await?.list_users(request).await?.into_inner();
            Ok((answer.users, answer.next_page_token))
        }
    })
    .await?;
    let header = ["USER", "E-MAIL", "USERNAME", "STATUS", "SIGNS IN", "LOCKED", "LAST LOGIN", "IN KANIDM AS"];
    out.list(&users, &header, |user| {
        vec![
            user.user_id.clone(),
            user.email.clone(),
            dash(&user.username),
            status_word(user.status),
            method_word(user.auth_method),
            yes(user.lock_reason != 0),
            time(user.last_login_at.as_ref()),
            dash(&user.kanidm_name),
        ]
    })?;
    out.more(more);
    Ok(())
}

async fn get(caller: &Caller, name: &str, out: &Out) -> Result<()> {
    let user = lookup::user(caller, name).await?;
    if out.is_json() {
        return out.message(&user);
    }
    let tenants = Names::of_tenants(caller, [user.tenant_id.as_str()].into_iter()).await;
    out.facts(&[
        ("id", user.user_id.clone()),
        ("e-mail", user.email.clone()),
        ("username", user.username.clone()),
        ("full name", user.full_name.clone()),
        ("home tenant", tenants.of(&user.tenant_id)),
        ("status", status_word(user.status)),
        ("signs in", method_word(user.auth_method)),
        ("password", if user.has_password { "set" } else { "none" }.to_owned()),
        ("must change it", yes(user.must_change_password)),
        ("second factor", yes(user.has_second_factor)),
        ("failed attempts", user.failed_login_attempts.to_string()),
        ("locked until", user.lock_ends_at.as_ref().map(|at| time(Some(at))).unwrap_or_default()),
        ("verified", time(user.verified_at.as_ref())),
        ("last login", time(user.last_login_at.as_ref())),
        ("in Kanidm", user.kanidm_user_id.clone()),
        ("named there", user.kanidm_name.clone()),
        ("migrated", time(user.migration_completed_at.as_ref())),
        ("legacy id", user.legacy_id.clone()),
        ("master admin", yes(user.is_master_admin)),
        ("created", time(user.created_at.as_ref())),
        ("changed", time(user.updated_at.as_ref())),
        ("etag", user.etag.clone()),
    ])?;
    out.line("")?;
    super::memberships::print(caller, ListMembershipsRequest { user_id: user.user_id, ..Default::default() }, out).await
}

/// Why a new user whose address is not verified cannot sign in yet, and what to do about it.
fn what_is_missing(email: &str, with_password: bool) -> String {
    let by_mail = match with_password {
        true => {
            "The message that goes there, where the service has a mail server, leads to a new password, since whoever \
             follows it did not choose this one."
        }
        false => {
            "The message that goes there, where the service has a mail server, leads to that, and then to a password."
        }
    };
    format!(
        "They cannot sign in before the address is verified. {by_mail} To confirm the address yourself: \
         sidle users enable {email} --email-verified"
    )
}

impl Create {
    async fn run(self, caller: &Caller, out: &Out) -> Result<()> {
        let tenant_id = lookup::optional_tenant_id(caller, self.tenant.as_deref()).await?;
        let mut role_ids = Vec::with_capacity(self.roles.len());
        for role in &self.roles {
            role_ids.push(lookup::role_id(caller, &tenant_id, role).await?);
        }
        let password = match self.with_password {
            true => Some(prompt::new_password("SIDLE_NEW_PASSWORD", "Password of the new user: ")?),
            false => None,
        };
        let (with_password, email_verified) = (self.with_password, self.email_verified);
        let request = CreateUserRequest {
            request_id: random_id(&caller.context),
            validate_only: self.dry_run,
            tenant_id,
            email: self.email,
            username: self.username,
            full_name: self.full_name,
            initial_password: password.map(|password| password.to_string()).unwrap_or_default(),
            must_change_password: self.keep_password.then_some(false),
            email_verified: self.email_verified,
            role_ids,
        };
        let call = async |request| Ok(caller.directory().await?.create_user(request).await?);
        let user = caller.proving(request, call).await?.user;
        if out.is_json() {
            return out.message(&user.unwrap_or_default());
        }
        let user = user.unwrap_or_default();
        let (id, email) = (user.user_id.clone(), user.email.clone());
        done(Some(user), if self.dry_run { "could be created" } else { "is created" }, out)?;
        if self.dry_run {
            return Ok(());
        }
        if !email_verified {
            out.note(&what_is_missing(&email, with_password));
        }
        out.line(&id)
    }
}
