//! What needs a database, a Kanidm or a running server: one binary, so that it links once. Start through `./run test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, clippy::print_stderr, reason = "tests")]
#![allow(missing_docs, reason = "tests")]

mod audit;
mod authenticate;
mod cli;
mod contract;
mod directory;
mod edge;
mod kanidm_cli;
mod kanidm_login;
mod kanidm_migration;
mod look;
mod mail;
mod migration;
mod schema;
mod session;
mod support;
