//! The messages and services of `proto/sidle/v1`, whose comments are the API's documentation.

tonic::include_proto!("sidle.v1");

/// The descriptors of the contract, for reflection.
pub static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sidle_descriptor.bin"));
