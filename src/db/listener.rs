//! A connection that listens, and finds out by itself when the other side is gone.

use std::time::Duration;

use sqlx::postgres::PgListener;

use crate::fault::{Fault, Reason, Result};

/// Silence after which the server is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(15);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is announced on a channel.
pub struct Notifications {
    inner: PgListener,
}

impl Notifications {
    pub(super) fn new(mut inner: PgListener) -> Self {
        // The listener must know of a gap before anything else is announced.
        inner.eager_reconnect(false);
        Self { inner }
    }

    /// The payload of the next notification. May be dropped while it waits, if nothing is asked of this again.
    ///
    /// # Errors
    /// `DATABASE_UNAVAILABLE` when the connection is gone; a new one must be made then.
    pub async fn next(&mut self) -> Result<String> {
        loop {
            // The driver sets no TCP keep-alive, so a connection that is dead shows when something is asked of it.
            match tokio::time::timeout(SILENCE, self.inner.try_recv()).await {
                Ok(Ok(Some(notification))) => return Ok(notification.payload().to_owned()),
                Ok(Ok(None)) => return Err(gone()),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => {
                    let asked = sqlx::query("SELECT 1").execute(&mut self.inner);
                    tokio::time::timeout(PATIENCE, asked).await.map_err(|_| gone())??;
                }
            }
        }
    }
}

fn gone() -> Fault {
    Fault::new(Reason::DatabaseUnavailable, "The connection that listens is gone.")
}
