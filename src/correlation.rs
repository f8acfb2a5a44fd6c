//! The correlation id of the call that the current task works for. It is in every log line of the call (as a field of its
//! span) and in the `ErrorInfo` of every error.

use tokio::task::JoinHandle;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

tokio::task_local! {
    static ID: Uuid;
}

/// The id of the call that the current task works for; none outside of calls.
pub(crate) fn current() -> Option<Uuid> {
    ID.try_with(|id| *id).ok()
}

/// Runs `work` as part of the call with this id.
pub(crate) async fn scope<F: Future>(id: Uuid, work: F) -> F::Output {
    ID.scope(id, work).await
}

/// The same for work that does not wait, such as one poll of a response's stream.
pub(crate) fn sync_scope<T>(id: Uuid, work: impl FnOnce() -> T) -> T {
    ID.sync_scope(id, work)
}

/// Spawns work that goes on when the call that began it is gone. It keeps the call's span and correlation id, which
/// `tokio::spawn` would lose.
pub(crate) fn spawn<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let work = work.instrument(Span::current());
    match current() {
        Some(id) => tokio::spawn(ID.scope(id, work)),
        None => tokio::spawn(work),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn spawned_work_keeps_the_id_of_its_call_and_the_span() {
        let id = Uuid::from_u128(7);
        let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry());
        let span = tracing::info_span!("rpc");
        let nested = async { spawn(async { spawn(async { (current(), Span::current().id()) }).await }).await };
        let (found, found_span) = scope(id, nested.instrument(span.clone())).await.unwrap().unwrap();
        assert_eq!((found, found_span), (Some(id), span.id()));
        assert_eq!(spawn(async { current() }).await.unwrap(), None, "outside of calls there is none");
        assert_eq!(sync_scope(id, current), Some(id));
    }
}
