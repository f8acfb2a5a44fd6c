//! Users on their way: import from another system, plans, and the engine that moves them to Kanidm. Knows Kanidm as
//! [`crate::kanidm`] gives it, and of the other modules only the audit log.

mod engine;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod groups;
mod import;
mod jobs;
pub mod legacy_file;
pub mod names;
mod plan;
mod rpc;
mod vocabulary;

pub use self::engine::Engine;
pub use self::groups::Groups;
pub use self::rpc::Service;
