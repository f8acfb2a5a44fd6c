//! SQL of sessions, and nothing of any other module.

pub(super) mod recheck;
pub(super) mod refresh;
pub(super) mod renewal;
pub(super) mod sessions;
pub(super) mod types;
