//! Room of migration.
