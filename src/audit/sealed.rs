//! Sealed values of the log, for the start to try its keys on.

use super::personal::wrapping_context;
use super::recording::waiting_context;
use super::store;
use crate::db::{Db, Scope};
use crate::fault::Result;
use crate::seal::Sealed;

/// The oldest and the newest key of a subject.
///
/// # Errors
/// When the database fails.
pub async fn sealed_keys(db: &Db) -> Result<Vec<Sealed>> {
    let mut tx = db.begin(Scope::Platform).await?;
    let keys = store::outermost_keys(&mut tx).await?;
    Ok(keys.into_iter().map(|(subject, value)| Sealed { context: wrapping_context(subject), value }).collect())
}

/// Personal data of the event that waits longest, as it does after `sidle admin bootstrap` until the service is started.
///
/// # Errors
/// When the database fails.
pub async fn sealed_waiting(db: &Db) -> Result<Vec<Sealed>> {
    let mut tx = db.begin(Scope::Platform).await?;
    let rows = store::waiting(&mut tx, 1).await?;
    let sealed = |row: store::Waiting| {
        let context = waiting_context(row.event_id);
        row.personal_sealed.map(|value| Sealed { context, value })
    };
    Ok(rows.into_iter().filter_map(sealed).collect())
}
