//! Credentials as such: hashing on threads of its own and what it is charged for, hashes of old applications, the
//! policy for new passwords, one-time codes and recovery codes. No I/O; knows no user, no session and no table.

pub(crate) mod bcrypt_hash;
pub(crate) mod breached;
pub(crate) mod charge;
pub(crate) mod hash_form;
pub(crate) mod hashing;
pub(crate) mod pepper;
pub mod policy;
pub(crate) mod queue;
pub(crate) mod recovery_codes;
pub(crate) mod strength;
pub(crate) mod totp;

pub use self::bcrypt_hash::{BcryptHash, MAX_COST, MAX_PASSWORD, Unusable};
pub(crate) use self::charge::network;
pub use self::charge::{Charge, Charges, RateLimitBucket};
pub use self::hashing::{Hasher, StoredHash};
pub use self::policy::Policy;
