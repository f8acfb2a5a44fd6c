//! Tests that need a database, a Kanidm or a running server: one binary, so that it links once. Start through `./run
//! test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, clippy::print_stderr, reason = "tests")]
#![allow(missing_docs, reason = "tests")]

mod audit;
mod authenticate;
mod bounds;
mod certificates;
mod change;
mod cli;
mod client;
mod contract;
mod correlation;
mod database;
mod directory;
mod dynamic;
mod edge;
mod enrolment;
mod failures;
mod floods;
mod flows;
mod foreign;
mod getting_started;
mod hostile;
mod import_cli;
mod indexes;
mod kanidm_cli;
mod kanidm_login;
mod kanidm_migration;
mod kanidm_setup;
mod look;
mod mail;
mod migration;
mod pages;
mod refusals;
mod schema;
mod service_log;
mod session;
mod support;
mod tables;
mod telemetry;
