//! `sidle token`.

use std::io::Read as _;

use clap::Subcommand;
use zeroize::Zeroizing;

use super::Global;
use super::connect::Caller;
use super::failure::Result;
use super::output::{Out, dash, time};
use crate::proto::VerifyTokenRequest;

/// Commands on access tokens.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Check an access token, read from standard input, as a service would
    Verify {
        /// Audience that the token must be for
        #[arg(long, default_value = "sidle")]
        audience: String,
    },
    /// Print an access token of the signed-in caller, for use with other tools
    Print,
}

impl Command {
    pub async fn run(self, global: &Global, out: &Out) -> Result<()> {
        let caller = Caller::open(global)?;
        match self {
            Self::Print => out.line(&caller.token().await?),
            Self::Verify { audience } => {
                let mut token = Zeroizing::new(String::new());
                std::io::stdin().lock().take(64 * 1024).read_to_string(&mut token)?;
                let request = VerifyTokenRequest { token: token.trim().to_owned(), audience };
                let answer = caller.authenticate().await?.verify_token(request).await?.into_inner();
                if out.is_json() {
                    return out.message(&answer);
                }
                let claims = answer.claims.unwrap_or_default();
                out.facts(&[
                    ("verdict", "accepted".to_owned()),
                    ("subject", claims.subject),
                    ("tenant", dash(&claims.tenant_id)),
                    ("session", claims.session_id),
                    ("issuer", claims.issuer),
                    ("audience", claims.audience),
                    ("issued at", time(claims.issued_at.as_ref())),
                    ("expires at", time(claims.expires_at.as_ref())),
                    ("roles", dash(&claims.roles.join(" "))),
                    ("the tenant's own roles", dash(&claims.tenant_roles.join(" "))),
                    ("roles on the platform", dash(&claims.platform_roles.join(" "))),
                    ("permissions", dash(&claims.permissions.join(" "))),
                    ("on the platform", dash(&claims.platform_permissions.join(" "))),
                ])
            }
        }
    }
}
