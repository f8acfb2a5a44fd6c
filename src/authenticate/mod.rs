//! Room of authenticate.
