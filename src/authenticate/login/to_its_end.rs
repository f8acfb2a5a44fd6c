//! Tasks that run to their end, also when the client disconnects.

use crate::correlation;
use crate::fault::{Fault, Result};

/// That its holder is in a task that runs to its end. Without one no attempt can be reserved.
pub(in crate::authenticate) struct ToItsEnd(());

impl ToItsEnd {
    /// Runs `work` in a task of its own and waits for it.
    pub async fn run<T, F>(work: impl FnOnce(Self) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        correlation::spawn(work(Self(()))).await.map_err(Fault::internal)?
    }
}
