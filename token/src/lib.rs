//! Sidle's access tokens and how they are verified. Shared by the service, which issues and verifies them, and by
//! `sidle-client`, with which other services verify them: one code, so that both accept and refuse the same.
//!
//! Everything here is a function of its arguments. Keys, the time and the revocation snapshot are passed in; nothing is
//! fetched, nothing is cached, no clock is read.

mod claims;
mod epoch;
mod key;
mod permissions;
mod snapshot;
mod token;

pub use self::claims::{Claims, Kind};
pub use self::epoch::Epoch;
pub use self::key::{Algorithm, Jwk, VerifyingKey};
pub use self::permissions::{PLATFORM_RESERVED, Permissions};
pub use self::snapshot::{Revocation, RevocationSnapshot, Revoked};
pub use self::token::{MAX_TOKEN_BYTES, Refusal, TYPE, Token, digest, issue_time, read};
