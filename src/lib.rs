//! Sidle moves an organisation's users from bcrypt passwords to Kanidm, one tenant, one cohort, one login at a time,
//! and is the identity service that other services ask meanwhile and after.
//!
//! The house, one room for each service:
//!
//! | Room | Owns |
//! |---|---|
//! | [`authenticate`] | the ways in: passwords, API keys, Kanidm's login |
//! | [`session`] | sessions, access and refresh tokens, signing keys, revocation |
//! | [`directory`] | users, tenants, roles, memberships, service accounts |
//! | [`audit`] | events, their order, their readers |
//! | [`migration`] | import, plan, the engine that moves users, progress |
//! | [`kanidm`] | the client of Kanidm, and all that speaks to it |
//! | [`mail`] | messages to people: the outbox, the templates, SMTP |
//! | [`access`] | who is calling and what they may do |
//! | [`server`] | registration, layers, TLS, the HTTP port for operators |
//! | [`db`] | the pool and the tenant scope of transactions |
//! | [`schema`] | schema migrations |
//! | [`config`], [`telemetry`], [`metrics`] | settings, log, figures |
//! | [`seal`], [`context`], [`fault`] | sealed values; time and randomness; the one error between rooms |
//! | [`app`] | wires all of it |
//! | [`cli`] | the commands |

pub mod access;
pub mod app;
pub mod audit;
pub mod authenticate;
pub mod cli;
pub mod config;
pub mod context;
pub mod db;
pub mod directory;
pub mod fault;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod kanidm;
pub mod mail;
pub mod metrics;
pub mod migration;
pub mod schema;
pub mod seal;
pub mod server;
pub mod session;
pub mod telemetry;

/// The messages and services of `proto/sidle/v1`, whose comments are the API's documentation.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    reason = "documented in the proto files; generated"
)]
pub mod proto {
    tonic::include_proto!("sidle.v1");
}
