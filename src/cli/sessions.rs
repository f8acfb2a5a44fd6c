//! `sidle sessions`.

use clap::Subcommand;

use super::Global;
use super::connect::Caller;
use super::failure::Result;
use super::lookup::{self, pages};
use super::names::Names;
use super::output::{Out, dash, time, word, yes};
use crate::proto::*;

/// Commands on sessions.
#[derive(Subcommand)]
pub(super) enum Command {
    /// List sessions: one's own, or with the permission those of others
    List {
        /// Whose: id, e-mail address or username
        #[arg(long, conflicts_with = "everybody")]
        user: Option<String>,
        /// Those of all users
        #[arg(long)]
        everybody: bool,
        /// Slug or id of the tenant to look in
        #[arg(long)]
        tenant: Option<String>,
        /// Also those that have ended
        #[arg(long)]
        ended: bool,
        /// Most sessions to print
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// End one session
    Revoke {
        /// Id of the session
        session: String,
    },
    /// End all sessions of a user, by default one's own
    RevokeAll {
        /// Whose: id, e-mail address or username
        #[arg(long)]
        user: Option<String>,
        /// Keep the session that this command runs in
        #[arg(long)]
        keep_current: bool,
    },
}

impl Command {
    pub async fn run(self, global: &Global, out: &Out) -> Result<()> {
        let caller = Caller::open(global)?;
        match self {
            Self::List { user, everybody, tenant, ended, limit } => {
                let user_id = match (&user, everybody) {
                    (Some(user), _) => lookup::user_id(&caller, user).await?,
                    (None, true) => "-".to_owned(),
                    (None, false) => String::new(),
                };
                let tenant_id = lookup::optional_tenant_id(&caller, tenant.as_deref()).await?;
                list(&caller, user_id, tenant_id, ended, limit, out).await
            }
            Self::Revoke { session } => {
                let request = RevokeSessionRequest { session_id: session };
                let answer = caller.sessions().await?.revoke_session(request).await?.into_inner();
                if out.is_json() {
                    return out.message(&answer);
                }
                let session = answer.session.unwrap_or_default();
                out.line(&format!("Session {} has ended.", session.session_id))
            }
            Self::RevokeAll { user, keep_current } => {
                let user_id = match &user {
                    Some(user) => lookup::user_id(&caller, user).await?,
                    None => String::new(),
                };
                let request = RevokeAllSessionsRequest { user_id, keep_current };
                let answer = caller.sessions().await?.revoke_all_sessions(request).await?.into_inner();
                if out.is_json() {
                    return out.message(&answer);
                }
                out.line(&format!("{} sessions have ended.", answer.sessions_revoked))
            }
        }
    }
}

async fn list(caller: &Caller, user_id: String, tenant_id: String, ended: bool, limit: usize, out: &Out) -> Result<()> {
    let statuses = match ended {
        true => vec![SessionStatus::Active.into(), SessionStatus::Revoked.into(), SessionStatus::Expired.into()],
        false => Vec::new(),
    };
    let (sessions, more) = pages(limit, |page_size, page_token| {
        let request = ListSessionsRequest {
            user_id: user_id.clone(),
            tenant_id: tenant_id.clone(),
            statuses: statuses.clone(),
            page_size,
            page_token,
        };
        async move {
            let answer = caller.sessions().await?.list_sessions(request).await?.into_inner();
            Ok((answer.sessions, answer.next_page_token))
        }
    })
    .await?;
    let users = match out.is_json() {
        true => Names::default(),
        false => Names::of_users(caller, sessions.iter().map(|session| session.user_id.as_str())).await,
    };
    let header = ["SESSION", "USER", "BY", "STATUS", "DEVICE", "ADDRESS", "CREATED", "ACTIVE", "CURRENT"];
    out.list(&sessions, &header, |session| {
        let device = session.device.clone().unwrap_or_default();
        let device = if device.platform.is_empty() { device.user_agent } else { device.platform };
        vec![
            session.session_id.clone(),
            users.of(&session.user_id),
            word(session.auth_method, SessionAuthMethod::as_str_name, "SESSION_AUTH_METHOD_"),
            word(session.status, SessionStatus::as_str_name, "SESSION_STATUS_"),
            dash(&device.chars().take(30).collect::<String>()),
            dash(&session.ip_address),
            time(session.created_at.as_ref()),
            time(session.last_activity_at.as_ref()),
            yes(session.current),
        ]
    })?;
    out.more(more);
    Ok(())
}
