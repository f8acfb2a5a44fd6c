//! Importing legacy users: each row is judged by rules, and all that are accepted come in with one commit.

mod mapping;
mod row;
mod run;
mod store;

pub use self::mapping::Header;
pub use self::row::{Row, Verdict};
pub use self::run::{HashCounts, Import, Summary};
pub(super) use self::run::{hashes_from_json, hashes_to_json, hex, unreadable};
