//! Schema migrations: up, down, status. Works with the owner role on a direct connection, one transaction for each
//! migration, under a lock that keeps a second run out.
//!
//! Tables change by versioned files, each applied once. Database functions lie in one file each, and are applied with the
//! last versioned file of a run when their text is not what the database has. See docs/decisions/0043-one-baseline.md.

mod files;
mod functions;
mod runner;
mod statements;
mod step;
mod store;

pub use self::files::{Files, FunctionFile, MigrationFile};
pub use self::runner::{Migration, Plan, Schema, require_current};
pub use self::step::LockWait;
pub use self::store::Applied;
