//! The edge: registration of every service, the layers and their order, TLS, shutdown, the HTTP port for operators.

mod authorities;
pub mod codec;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod grpc;
mod idle;
mod layers;
mod ops;
pub mod services;
pub mod status;

pub use self::authorities::Authorities;
pub use self::grpc::{Bound, bind, serve};
pub use self::layers::{Edge, ORDER, Step};
pub use self::ops::{Ops, serve as serve_ops, serve_public};
