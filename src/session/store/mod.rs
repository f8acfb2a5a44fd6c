//! SQL of this room, and nothing of any other.

pub(super) mod refresh;
pub(super) mod renewal;
pub(super) mod sessions;
