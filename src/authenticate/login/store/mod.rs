//! SQL of logins, a file for each method; mostly calls of functions in the schema, each of them one round trip.

pub(in crate::authenticate) mod factors;
pub(in crate::authenticate) mod login;
pub(in crate::authenticate) mod password;
pub(in crate::authenticate) mod service_account;
pub(in crate::authenticate) mod throttle;
pub(in crate::authenticate) mod types;
