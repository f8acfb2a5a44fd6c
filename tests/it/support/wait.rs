//! Waiting with a bound, whose failure says what was waited for. `tests/structure` refuses a loop that waits without
//! one of these.

use std::time::Duration;

/// All that tests wait for happens long before, also on a machine that runs many of them concurrently.
pub const LIMIT: Duration = Duration::from_secs(300);

/// How long [`eventually`] and [`until`] wait before they ask again.
const PAUSE: Duration = Duration::from_millis(5);

/// The output of `future`. For what can be awaited: an event, a message of a stream, the end of a task.
///
/// # Panics
/// When it has not come after [`LIMIT`]: says what was waited for.
pub async fn within<F: IntoFuture>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}

/// Polls until there is an answer, and returns that. For what sends no notification: a row, a metric, a lock that is
/// waited for.
///
/// # Panics
/// When there is none after [`LIMIT`]: says what was waited for.
pub async fn eventually<T>(what: &str, mut answer: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            if let Some(answer) = answer().await {
                return answer;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    within(what, asked).await
}

/// [`eventually`] for a condition.
///
/// # Panics
/// When it is not true after [`LIMIT`]: says what was waited for.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    eventually(what, async || holds().await.then_some(())).await;
}
