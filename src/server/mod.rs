//! The edge: the layers and their order, who is let in, TLS, shutdown, the HTTP port for operators.

mod accept;
pub mod authentication;
mod authorities;
mod body;
pub mod certificates;
mod connection;
mod denials;
mod details;
mod frames;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod grpc;
mod http;
mod idle;
mod layers;
mod observed;
mod ops;
mod protocol;
mod quota;
mod rate_limit;
mod refusals;
pub mod status;
mod streams;
mod tls;
mod validity;

pub use self::accept::Bounds;
pub use self::authorities::Authorities;
pub use self::denials::Denials;
pub use self::grpc::{Bound, Port, bind};
pub use self::layers::{Edge, ORDER, Step};
pub use self::ops::{Ops, serve as serve_ops, serve_public};
pub use self::tls::check as check_tls;
