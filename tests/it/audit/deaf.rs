//! The connection that listens for notifications dies silently: events are read all the same, only later, until that is
//! noticed.

use super::{Parts, numbered};
use crate::support::proxy::Proxy;
use crate::support::{Setup, within};

/// Writes events until `enough`, each after the one before was read.
async fn write_until(parts: &Parts, number: &mut i64, enough: impl Fn(&Parts) -> bool) {
    within("it is noticed", async {
        while !enough(parts) {
            *number += 1;
            parts.record([numbered(None, *number)]).await;
            parts.feed.reached(*number).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_died_silently_is_replaced_and_hears_again() {
    let setup = Setup::new().await;
    let url = setup.environment()["SIDLE_DATABASE__URL"].clone();
    let (before, after) = url.rsplit_once('@').unwrap();
    let (target, database) = after.split_once('/').unwrap();
    let proxy = Proxy::start(target).await;
    let setup = setup.with("DATABASE__DIRECT_URL", &format!("{before}@{}/{database}", proxy.address));
    let parts = Parts::new(&setup);
    let _running = parts.run();
    let mut number = 0;
    write_until(&parts, &mut number, |parts| parts.metrics.audit_listening.get() == 1).await;
    assert_eq!(parts.metrics.audit_listener_replaced.get(), 0);

    proxy.strand();
    write_until(&parts, &mut number, |parts| parts.metrics.audit_listener_replaced.get() > 0).await;
    write_until(&parts, &mut number, |parts| parts.metrics.audit_listening.get() == 1).await;
}
