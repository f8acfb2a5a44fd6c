//! The messages of the contract, apart from its services: faults are made with an enum of them, and the codec of the services
//! with faults. Others import them from [`crate::proto`].

include!(concat!(env!("OUT_DIR"), "/sidle.v1.rs"));
