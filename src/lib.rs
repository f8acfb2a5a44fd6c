//! Sidle moves an organisation's users from bcrypt passwords to Kanidm, one tenant, one cohort, one login at a time,
//! and is the identity service that other services ask meanwhile and after.
//!
//! One module for each service:
//!
//! | Module | Owns |
//! |---|---|
//! | [`authenticate`] | authentication methods: passwords, API keys, Kanidm's login |
//! | [`session`] | sessions and refresh tokens: their beginning, renewal and end |
//! | [`token`] | access tokens: signing keys, issuing, checking, revocation |
//! | [`credential`] | password hashes, policy, one-time codes: no I/O |
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
//! | [`seal`], [`context`], [`fault`] | sealed values; time and randomness; the one error between modules |
//! | [`startup`], [`network`] | why the service cannot start; why there is no connection to a peer |
//! | `shared`, [`change`] | the parts that most services are made of; one transaction with its events and messages |
//! | [`proto`], [`codec`] | the contract and its encoding |
//! | [`app`] | wires all of it |
//! | [`cli`] | the commands |

pub mod access;
pub mod app;
pub mod audit;
pub mod authenticate;
pub mod change;
pub mod cli;
pub mod codec;
pub mod config;
pub mod context;
mod correlation;
pub mod credential;
pub mod db;
pub mod directory;
pub mod fault;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod kanidm;
pub mod mail;
#[allow(clippy::all, clippy::pedantic, clippy::unwrap_used, reason = "documented in the proto files; generated")]
pub(crate) mod messages;
pub mod metrics;
pub mod migration;
pub mod network;
#[allow(clippy::all, clippy::pedantic, clippy::unwrap_used, reason = "documented in the proto files; generated")]
pub mod proto;
pub mod schema;
pub mod seal;
pub mod server;
pub mod session;
pub(crate) mod shared;
pub mod startup;
pub mod telemetry;
pub mod token;
