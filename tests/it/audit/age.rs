//! For how long something may be missing from what the feed has handed out: also an event that waits for its position.

use std::time::Duration;

use super::{Parts, numbered};
use crate::support::Setup;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_feed_ages_while_an_event_waits_for_its_position() {
    let parts = Parts::new(&Setup::new().await);
    // The first look finds where the log ends, the second one that nothing is missing.
    assert!(parts.feed.look().await.unwrap());
    assert_eq!(parts.feed.age(), None);
    assert!(!parts.feed.look().await.unwrap());
    assert!(parts.feed.age().unwrap() < MINUTE);

    parts.record([numbered(None, 1)]).await;
    for minutes in 1..=2 {
        parts.context.clock.advance(MINUTE);
        parts.feed.look().await.unwrap();
        let age = parts.feed.age().unwrap();
        assert!(age >= MINUTE * minutes, "nobody has numbered it since, so nobody could read it: {age:?}");
    }

    parts.sequence().await;
    parts.feed.look().await.unwrap();
    assert_eq!(parts.feed.position(), Some(1));
    assert!(parts.feed.age().unwrap() < MINUTE, "it is handed out, and nothing else waits");
}

/// A replica that could not ask does not know for how long an event has waited that it finds then.
#[tokio::test]
async fn an_event_found_after_a_pause_may_have_waited_all_the_time() {
    let parts = Parts::new(&Setup::new().await);
    parts.feed.look().await.unwrap();
    parts.feed.look().await.unwrap();
    parts.context.clock.advance(MINUTE);
    parts.record([numbered(None, 1)]).await;
    parts.feed.look().await.unwrap();
    assert!(parts.feed.age().unwrap() >= MINUTE);
}
