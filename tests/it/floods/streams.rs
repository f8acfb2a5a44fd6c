//! Streams that need no login: bounded for each address and in total, and none is unlimited in time.

use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_types::StatusExt as _;

use super::{connect_from, port_of};
use crate::support::{Setup, TestServer, until, within};

fn client(channel: tonic::transport::Channel) -> HealthClient<tonic::transport::Channel> {
    HealthClient::new(channel)
}

async fn watch(channel: tonic::transport::Channel) -> Result<Streaming<HealthCheckResponse>, Status> {
    let mut stream = client(channel).watch(HealthCheckRequest::default()).await?.into_inner();
    within("the state as it is", stream.message()).await?.expect("the stream goes on");
    Ok(stream)
}

/// A channel that comes from another address of this machine.
async fn channel_from(own: &'static str, server: &TestServer) -> tonic::transport::Channel {
    let to = port_of(server);
    let connector = tower::service_fn(move |_| async move {
        Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(connect_from(own, to).await))
    });
    tonic::transport::Endpoint::from_static("http://sidle").connect_with_connector(connector).await.unwrap()
}

fn is_refused(refused: &Status) -> bool {
    let reason = refused.get_details_error_info().map(|info| info.reason);
    refused.code() == Code::ResourceExhausted && reason.as_deref() == Some("TOO_MANY_OPEN_STREAMS")
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_of_health_are_bounded_for_each_address_and_together() {
    let setup = Setup::new().await.with("SERVER__MAX_PUBLIC_STREAMS_PER_ADDRESS", "3");
    let server = setup.with("SERVER__MAX_PUBLIC_STREAMS", "4").start().await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(watch(server.channel.clone()).await.expect("a stream"));
    }
    assert!(is_refused(&watch(server.channel.clone()).await.expect_err("a fourth of one address")));
    let (other, third) = (channel_from("127.0.0.2", &server).await, channel_from("127.0.0.3", &server).await);
    held.push(watch(other).await.expect("a stream of another address"));
    assert!(is_refused(&watch(third.clone()).await.expect_err("a fifth of all")));
    // A single check is no stream.
    client(third.clone()).check(HealthCheckRequest::default()).await.expect("answers");
    held.clear();
    until("streams that were closed are given back", async || watch(third.clone()).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_health_ends_and_can_be_opened_again() {
    let setup = Setup::new().await.with("SERVER__PUBLIC_STREAM_LIFETIME", "50ms");
    let server = setup.with("SERVER__MAX_PUBLIC_STREAMS_PER_ADDRESS", "1").start().await;
    for _ in 0..3 {
        let mut stream = watch(server.channel.clone()).await.expect("a stream");
        let ended = within("an end", stream.message()).await.expect_err("not for good");
        let reason = ended.get_details_error_info().unwrap().reason;
        assert_eq!((ended.code(), reason.as_str()), (Code::Unavailable, "STREAM_TOO_OLD"));
    }
}

/// Open reflection is a stream as well, and counts together with them.
#[tokio::test(flavor = "multi_thread")]
async fn open_reflection_is_bounded_as_well() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    let server = Setup::new().await.with("SERVER__MAX_PUBLIC_STREAMS_PER_ADDRESS", "1").start().await;
    let mut reflection = ServerReflectionClient::new(server.channel.clone());
    let held = reflection.server_reflection_info(tokio_stream::pending()).await.expect("a stream");
    assert!(is_refused(&watch(server.channel.clone()).await.expect_err("one of any kind")));
    drop(held);
}
