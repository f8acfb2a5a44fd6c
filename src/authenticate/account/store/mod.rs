//! SQL of what users do with their own account.

pub(in crate::authenticate) mod account;
pub(in crate::authenticate) mod one_time;
pub(in crate::authenticate) mod registrations;
pub(in crate::authenticate) mod step_up;
pub(in crate::authenticate) mod users;
mod words;
