//! The contract of `proto/sidle/v1`, whose comments are the API's documentation: its messages, and the clients and servers of
//! its services.

use crate::codec::Codec;
pub use crate::messages::*;

include!(concat!(env!("OUT_DIR"), "/services/sidle.v1.rs"));

/// The descriptors of the contract, without its comments: the shapes of its messages.
pub static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sidle_descriptor.bin"));

/// The same with the comments, for reflection.
pub static DESCRIBED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sidle_described.bin"));
