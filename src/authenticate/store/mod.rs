//! SQL of this room, a file for each way in; mostly calls of functions in the schema, each of them one round trip.

pub(super) mod account;
pub(super) mod by_mail;
pub(super) mod enrolment;
pub(super) mod factors;
pub(super) mod kanidm;
pub(super) mod login;
pub(super) mod password;
pub(super) mod service_account;
pub(super) mod step_up;
pub(super) mod throttle;
