//! SQL of the outbox.

use serde_json::Value;
use sqlx::PgConnection;

use crate::fault::Result;

/// Writes a message.
pub(super) async fn enqueue(tx: &mut PgConnection, mail: &Value) -> Result<()> {
    sqlx::query!("SELECT mail_enqueue($1)", mail).execute(tx).await?;
    Ok(())
}
