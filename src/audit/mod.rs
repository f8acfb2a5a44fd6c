//! Room of audit.
