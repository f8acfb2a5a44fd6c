//! Room of directory.
