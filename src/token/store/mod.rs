//! SQL of signing keys, revocations, and the users whom Kanidm's own tokens name.

pub(super) mod kanidm_token;
pub(super) mod keys;
pub(super) mod revocations;
