//! SQL of the directory. Row-level security holds every statement to the scope of its transaction; statements over
//! large tables name the tenant as well, so that they find its index.

pub(super) mod api_keys;
pub(super) mod kanidm;
pub(super) mod memberships;
pub(super) mod roles;
pub(super) mod service_accounts;
pub(super) mod tenants;
pub(super) mod tokens;
pub(super) mod users;
mod words;

pub use self::words::{ActiveStatus, AuthMethod, GrantSource, KeyKind, LockReason, UserStatus};

use crate::db;
use crate::fault::{Fault, Reason};

/// What a unique index keeps apart.
struct Unique {
    /// Name of the constraint.
    constraint: &'static str,
    /// Field of the request that collides.
    field: &'static str,
    /// The refusal, as a sentence.
    taken: &'static str,
}

/// The refusal for a unique index that a statement ran into; the driver's error, masked, for everything else.
fn taken(error: sqlx::Error, known: &[Unique]) -> Fault {
    if db::gave_up_waiting(&error) {
        return db::contended();
    }
    let unique =
        db::constraint(&error).and_then(|constraint| known.iter().find(|unique| unique.constraint == constraint));
    match unique {
        Some(unique) => Fault::new(Reason::AlreadyExists, unique.taken).with("field", unique.field),
        None => error.into(),
    }
}

/// The refusal for a foreign key that still points at what was to be deleted.
fn in_use(error: sqlx::Error, keys: &[&str], by: &'static str) -> Fault {
    match db::constraint(&error) {
        Some(constraint) if keys.contains(&constraint) => {
            Fault::new(Reason::InUse, format!("There are still {by} that depend on it.")).with("by", by)
        }
        _ => error.into(),
    }
}
