//! Who is calling and what they may do: the call, the principal, the policy of every RPC. Knows no service.

pub mod delegation;
pub mod etag;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod input;
pub mod live;
pub mod names;
pub mod paging;
mod policy;
mod principal;
mod proven;
pub mod replay;
pub(crate) mod rpcs;
pub mod status;
mod store;

pub(crate) use self::policy::aside;
pub use self::policy::{Policy, all as policies, all_sensitive, max_request_bytes, of as policy_of, sensitive};
pub(crate) use self::principal::denied;
pub use self::principal::{Call, Principal, PrincipalKind};
pub use self::proven::{of_nothing, request_digest};
pub(crate) use self::store::certificate_account;
pub use self::store::words;
pub use sidle_token::{PLATFORM_RESERVED, Permissions};
