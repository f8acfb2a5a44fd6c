//! Importing legacy users: each row is judged by rules, and all that are accepted are imported with one commit.

mod candidate;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod known_users;
mod mapping;
mod row;
mod run;
mod store;
mod summary;

pub use self::candidate::Verdict;
pub use self::mapping::Header;
pub use self::row::{Row, Unreadable};
pub use self::run::Import;
pub(super) use self::run::unreadable;
pub use self::summary::{HashCounts, Summary};
pub(super) use self::summary::{hashes_from_json, hashes_to_json};
