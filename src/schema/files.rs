//! The files of a release, as they are built into the program.

use std::borrow::Cow;

use sha2::{Digest as _, Sha256};

mod embedded {
    use std::borrow::Cow;

    use super::{FunctionFile, MigrationFile};
    include!(concat!(env!("OUT_DIR"), "/migrations.rs"));
}

/// First line of a versioned file that cannot run in a transaction.
const NO_TRANSACTION: &str = "-- no-transaction";

/// Everything that makes the schema of one release.
#[derive(Clone, Debug)]
pub struct Files {
    /// Versioned files, the oldest first.
    pub migrations: Cow<'static, [MigrationFile]>,
    /// Database functions by name.
    pub functions: Cow<'static, [FunctionFile]>,
}

/// A versioned file with its way back.
#[derive(Clone, Debug)]
pub struct MigrationFile {
    /// Number in the file name.
    pub version: i64,
    /// Words in the file name.
    pub description: Cow<'static, str>,
    /// File name of the way up.
    pub filename: Cow<'static, str>,
    /// Text of the way up.
    pub up: Cow<'static, str>,
    /// Text of the way down.
    pub down: Cow<'static, str>,
}

/// The file of one database function.
#[derive(Clone, Debug)]
pub struct FunctionFile {
    /// Name of the function and, with `.sql`, of the file.
    pub name: Cow<'static, str>,
    /// Path below `migrations/`.
    pub path: Cow<'static, str>,
    /// Definition, comment, rights and triggers.
    pub sql: Cow<'static, str>,
}

impl Files {
    /// Those of this release.
    pub fn embedded() -> Self {
        Self { migrations: Cow::Borrowed(embedded::MIGRATIONS), functions: Cow::Borrowed(embedded::FUNCTIONS) }
    }

    /// The newest version; 0 when there is none.
    pub(super) fn newest(&self) -> i64 {
        self.migrations.last().map_or(0, |migration| migration.version)
    }
}

impl MigrationFile {
    pub(super) fn checksum(&self) -> [u8; 32] {
        checksum(&self.up)
    }

    /// File name of the way down.
    pub(super) fn down_filename(&self) -> String {
        self.filename.replace(".up.sql", ".down.sql")
    }
}

impl FunctionFile {
    pub(super) fn checksum(&self) -> [u8; 32] {
        checksum(&self.sql)
    }
}

/// Whether a versioned file says that it cannot run in a transaction.
pub(super) fn is_outside_transaction(sql: &str) -> bool {
    sql.starts_with(NO_TRANSACTION)
}

fn checksum(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}
