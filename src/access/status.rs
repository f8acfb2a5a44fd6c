//! Reading back the fault that a gRPC status of ours was made from.

use tonic::Status;
use tonic_types::StatusExt as _;

use crate::fault::{Fault, Reason, answers};

/// `ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "sidle";

/// The fault that a status of ours was made from, such as one that came out of a request's stream; none for others'.
pub fn fault(status: &Status) -> Option<Fault> {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    let answer = answers().iter().find(|answer| answer.name == info.reason)?;
    let fault = Fault::new(Reason::try_from(answer.reason).ok()?, status.message().to_owned());
    Some(match status.get_details_retry_info().and_then(|info| info.retry_delay) {
        Some(delay) => fault.retry_after(delay),
        None => fault,
    })
}
