//! SQL of accounts in their users' hands.

pub(in crate::authenticate) mod account;
pub(in crate::authenticate) mod by_mail;
pub(in crate::authenticate) mod step_up;
pub(in crate::authenticate) mod users;
