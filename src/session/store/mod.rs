//! SQL of this room, and nothing of any other.

pub(super) mod kanidm_token;
pub(super) mod keys;
pub(super) mod refresh;
pub(super) mod revocations;
pub(super) mod sessions;
