//! Access tokens: the keys that sign them and their rotation, issuing, checking, and the snapshot of revocations that
//! every token is checked against. Knows nothing of how users authenticate, nor of refresh tokens.

pub(crate) mod hs256;
pub(crate) mod issuer;
pub(crate) mod kanidm_token;
pub(crate) mod keys;
pub mod opaque;
pub(crate) mod revocation;
pub(crate) mod role_names;
pub(crate) mod rotation;
pub(crate) mod signing;
mod store;
pub(crate) mod verifier;

pub use self::issuer::{AccessToken, Grant, Issuer};
pub use self::kanidm_token::{KanidmTokens, KanidmVerified, TokenUser};
pub use self::keys::{KeyState, Keys, SigningKey, SigningKeyManager, sealed};
pub use self::revocation::Revocations;
pub use self::role_names::RoleNames;
pub use self::rotation::{FreshKey, KeyView, Revoke, Rotated, Rotation};
pub use self::verifier::{MAX_TOKEN_BYTES, Verified, Verifier};
