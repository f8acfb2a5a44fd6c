//! `sidle keys`.

use clap::{Subcommand, ValueEnum};

use super::Global;
use super::connect::{Caller, random_id};
use super::failure::{Failure, Result};
use super::lookup::pages;
use super::output::{Out, time};
use crate::proto::*;

/// Commands on the keys that sign access tokens.
#[derive(Subcommand)]
pub(super) enum Command {
    /// List the keys, the newest first
    List {
        /// Also those that are accepted no more
        #[arg(long)]
        expired: bool,
    },
    /// Make a new key, which signs once all verifiers have had time to fetch it
    Rotate {
        /// Algorithm of the new key, where not the configured one
        #[arg(long, value_enum)]
        algorithm: Option<Algorithm>,
        /// Time until the new key signs, such as 10m, where not the configured one
        #[arg(long, value_name = "TIME", value_parser = humantime_serde::re::humantime::parse_duration)]
        lead: Option<std::time::Duration>,
        /// Only report what would happen
        #[arg(long)]
        dry_run: bool,
    },
    /// Refuse every token that was signed with a key, from now on: for a key that leaked. All clients must refresh
    Retire {
        /// Ids of the keys, as `list` shows them
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        keys: Vec<String>,
        /// Every key that there is
        #[arg(long)]
        all: bool,
        /// Algorithm of the key that takes over, where not the configured one
        #[arg(long, value_enum)]
        algorithm: Option<Algorithm>,
        /// Only report what would happen
        #[arg(long)]
        dry_run: bool,
    },
}

/// Algorithms of signing keys.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Algorithm {
    /// Ed25519
    #[value(name = "EdDSA")]
    EdDsa,
    /// ECDSA on P-256
    #[value(name = "ES256")]
    Es256,
    /// RSA
    #[value(name = "RS256")]
    Rs256,
}

impl Command {
    pub async fn run(self, global: &Global, out: &Out) -> Result<()> {
        let caller = Caller::open(global)?;
        match self {
            Self::List { expired } => list(&caller, expired, out).await,
            Self::Rotate { algorithm, lead, dry_run } => {
                let lead = lead.map(prost_types::Duration::try_from).transpose();
                let lead_time = lead.map_err(|_| Failure::new("the time until the new key signs is too long"))?;
                let request = RotateSigningKeysRequest { lead_time, ..rotation(&caller, algorithm, dry_run) };
                rotate(&caller, request, out).await
            }
            Self::Retire { keys, all, algorithm, dry_run } => {
                let rotation = rotation(&caller, algorithm, dry_run);
                let request = RotateSigningKeysRequest { revoke_previous: all, revoke_key_ids: keys, ..rotation };
                rotate(&caller, request, out).await
            }
        }
    }
}

fn rotation(caller: &Caller, algorithm: Option<Algorithm>, validate_only: bool) -> RotateSigningKeysRequest {
    let algorithm = algorithm.and_then(|algorithm| algorithm.to_possible_value());
    RotateSigningKeysRequest {
        request_id: random_id(&caller.context),
        validate_only,
        algorithm: algorithm.map(|value| value.get_name().to_owned()).unwrap_or_default(),
        ..Default::default()
    }
}

async fn rotate(caller: &Caller, request: RotateSigningKeysRequest, out: &Out) -> Result<()> {
    let is_dry = request.validate_only;
    let call = async |request| Ok(caller.directory().await?.rotate_signing_keys(request).await?);
    let answer = caller.proving(request, call).await?;
    if out.is_json() {
        return out.message(&answer);
    }
    let keys: Vec<SigningKey> = answer.signing_key.into_iter().chain(answer.previous_keys).collect();
    if is_dry {
        out.note("Nothing was changed. The keys would be:");
    }
    table(&keys, out)
}

async fn list(caller: &Caller, include_expired: bool, out: &Out) -> Result<()> {
    let (keys, _) = pages(usize::MAX, |page_size, page_token| {
        let request = ListSigningKeysRequest { page_size, page_token, include_expired };
        async move {
            let answer = caller.directory().await?.list_signing_keys(request).await?.into_inner();
            Ok((answer.signing_keys, answer.next_page_token))
        }
    })
    .await?;
    table(&keys, out)
}

fn table(keys: &[SigningKey], out: &Out) -> Result<()> {
    out.list(keys, &["KEY", "ALGORITHM", "STATE", "CREATED", "SIGNS FROM", "SIGNS UNTIL", "ACCEPTED UNTIL"], |key| {
        let state = match key.state() {
            SigningKeyState::Published => "published",
            SigningKeyState::Active => "active",
            SigningKeyState::Retiring => "retiring",
            SigningKeyState::Expired => "expired",
            SigningKeyState::Unspecified => "-",
        };
        vec![
            key.key_id.clone(),
            key.algorithm.clone(),
            state.to_owned(),
            time(key.created_at.as_ref()),
            time(key.activates_at.as_ref()),
            time(key.retires_at.as_ref()),
            time(key.expires_at.as_ref()),
        ]
    })
}
