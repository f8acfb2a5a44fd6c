//! Schema migrations: up, down, status. Works with the owner role on a direct connection, one transaction for each
//! migration, under a lock that keeps a second run out.

mod runner;
mod store;

pub use self::runner::{Applied, LockWait, Migration, Plan, Schema, require_current};

/// A migration as it is built into the binary.
struct Embedded {
    version: i64,
    description: &'static str,
    filename: &'static str,
    up: &'static str,
    down: &'static str,
}

mod embedded {
    use super::Embedded;
    include!(concat!(env!("OUT_DIR"), "/migrations.rs"));
}
