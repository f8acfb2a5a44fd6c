//! The edge: what reaches a service at all.
