//! The edge: registration of every service, the layers and their order, TLS, shutdown, the HTTP port for operators.

mod accept;
mod authorities;
mod body;
pub mod codec;
mod connection;
mod frames;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod grpc;
mod idle;
mod layers;
mod ops;
mod protocol;
mod quota;
pub mod services;
pub mod status;
mod streams;
mod tls;

pub use self::accept::Bounds;
pub use self::authorities::Authorities;
pub use self::grpc::{Bound, Port, bind};
pub use self::layers::{Edge, ORDER, Step};
pub use self::ops::{Ops, serve as serve_ops, serve_public};
