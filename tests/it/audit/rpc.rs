//! The audit log over gRPC.

use std::time::Duration;

use sha2::{Digest, Sha256};
use sidle::audit::{Event, EventType};
use sidle::db::Scope;
use sidle::proto::stream_events_request::Start;
use sidle::proto::*;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use super::{call, numbered};
use crate::support::{Client, Setup, TestServer, within};

/// Only the events of these tests, not those of logins.
fn ours() -> AuditFilter {
    AuditFilter { types: vec!["migration.item_linked".to_owned()], ..Default::default() }
}

async fn record(server: &TestServer, events: impl IntoIterator<Item = Event>) {
    let app = server.app();
    let mut tx = app.db.begin(Scope::Platform).await.unwrap();
    app.recorder.record_all(&mut tx, events).await.unwrap();
    tx.commit().await.unwrap();
}

fn number(event: &AuditEvent) -> i64 {
    match event.details.as_ref().unwrap().fields["number"].kind {
        #[expect(clippy::cast_possible_truncation, reason = "a small whole number")]
        Some(prost_types::value::Kind::NumberValue(number)) => number as i64,
        ref other => panic!("{other:?}"),
    }
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().expect("every error says why").reason.clone()
}

async fn stream(client: &mut Client, filter: AuditFilter, start: Option<Start>) -> Streaming<StreamEventsResponse> {
    let request = StreamEventsRequest { filter: Some(filter), start, heartbeat_interval: None };
    client.audit.stream_events(request).await.expect("the stream opens").into_inner()
}

/// The next `count` events and the cursor after them.
async fn take(stream: &mut Streaming<StreamEventsResponse>, count: usize) -> (Vec<i64>, String) {
    let (mut numbers, mut cursor) = (Vec::new(), String::new());
    within("the next events", async {
        while numbers.len() < count {
            let message = stream.message().await.unwrap().expect("the stream goes on");
            numbers.extend(message.event.as_ref().map(number));
            cursor = message.cursor;
        }
    })
    .await;
    (numbers, cursor)
}

/// Waits until all earlier events are past: a stream that begins now sends this first.
async fn caught_up(stream: &mut Streaming<StreamEventsResponse>) -> String {
    let message = within("the state of the stream", stream.message()).await.unwrap().expect("the stream goes on");
    assert!(message.event.is_none() && message.caught_up);
    message.cursor
}

async fn tenant_admin(server: &TestServer, slug: &str) -> (Uuid, Client) {
    let tenant = server.tenant(slug).await;
    let email = format!("admin@{slug}.example");
    server.user(tenant, &email, "admin").await;
    (tenant, server.client(&server.sign_in(&email).await.access_token))
}

#[tokio::test]
async fn lists_are_paged_without_gap_or_repeat_in_both_orders() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    record(&server, (0..25).map(|n| numbered(None, n))).await;
    take(&mut stream(&mut admin, ours(), Some(Start::FromBeginning(true))).await, 25).await;
    for (order, expected) in [
        (AuditOrder::Unspecified, (0..25).rev().collect::<Vec<i64>>()),
        (AuditOrder::NewestFirst, (0..25).rev().collect()),
        (AuditOrder::OldestFirst, (0..25).collect()),
    ] {
        let mut request =
            ListEventsRequest { filter: Some(ours()), order: order.into(), page_size: 10, ..Default::default() };
        let (mut found, mut sizes) = (Vec::new(), Vec::new());
        // One page more than there are, so that pages without an end fail.
        for _ in 0..4 {
            let page = admin.audit.list_events(request.clone()).await.unwrap().into_inner();
            sizes.push(page.events.len());
            found.extend(page.events.iter().map(number));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!((found, sizes), (expected, vec![10, 10, 5]), "{order:?}");
    }
}

#[tokio::test]
async fn a_time_range_is_cut_at_its_ends() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    let mut times = Vec::new();
    for n in 0..3 {
        let mut live = stream(&mut admin, ours(), None).await;
        caught_up(&mut live).await;
        record(&server, [numbered(None, n)]).await;
        let message = within("the event", live.message()).await.unwrap().unwrap();
        times.push(message.event.unwrap().recorded_at.unwrap());
    }
    let list = |recorded_from, recorded_before| {
        let request = ListEventsRequest { filter: Some(ours()), recorded_from, recorded_before, ..Default::default() };
        let mut audit = admin.audit.clone();
        async move { audit.list_events(request).await.unwrap().into_inner().events.iter().map(number).collect::<Vec<_>>() }
    };
    assert_eq!(list(Some(times[1]), None).await, [2, 1]);
    assert_eq!(list(None, Some(times[1])).await, [0]);
    assert_eq!(list(Some(times[1]), Some(times[2])).await, [1]);
    assert_eq!(list(Some(times[2]), Some(times[0])).await, [0; 0]);
    let mut from_time = stream(&mut admin, ours(), Some(Start::RecordedFrom(times[1]))).await;
    assert_eq!(take(&mut from_time, 2).await.0, [1, 2]);
}

#[tokio::test]
async fn a_cursor_is_good_for_its_caller_and_filter_only() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    let (tenant, mut other) = tenant_admin(&server, "harbour").await;
    record(&server, (0..3).map(|n| numbered(Some(tenant), n))).await;
    let (_, cursor) = take(&mut stream(&mut admin, ours(), Some(Start::FromBeginning(true))).await, 2).await;
    let list = |filter, page_token: &str| ListEventsRequest {
        filter: Some(filter),
        page_size: 1,
        page_token: page_token.to_owned(),
        ..Default::default()
    };
    let token = admin.audit.list_events(list(ours(), "")).await.unwrap().into_inner().next_page_token;
    assert!(admin.audit.list_events(list(ours(), &token)).await.is_ok());

    let narrower = AuditFilter { tenant_id: tenant.to_string(), ..ours() };
    let oldest_first = ListEventsRequest { order: AuditOrder::OldestFirst.into(), ..list(ours(), &token) };
    let refused = [
        other.audit.list_events(list(ours(), &token)).await.unwrap_err(),
        admin.audit.list_events(list(narrower.clone(), &token)).await.unwrap_err(),
        admin.audit.list_events(list(AuditFilter::default(), &token)).await.unwrap_err(),
        admin.audit.list_events(oldest_first).await.unwrap_err(),
        admin.audit.list_events(list(ours(), &cursor)).await.unwrap_err(),
    ];
    for status in refused {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_PAGE_TOKEN"));
    }
    for (client, filter, cursor) in [
        (&mut other, ours(), cursor.as_str()),
        (&mut admin.clone(), narrower, &cursor),
        (&mut admin.clone(), AuditFilter::default(), &cursor),
        (&mut admin.clone(), ours(), &token),
        (&mut admin.clone(), ours(), "nonsense"),
    ] {
        let start = Some(Start::Cursor(cursor.to_owned()));
        let request = StreamEventsRequest { filter: Some(filter), start, heartbeat_interval: None };
        let status = client.audit.stream_events(request).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_PAGE_TOKEN"));
    }
    let mut resumed = stream(&mut admin, ours(), Some(Start::Cursor(cursor))).await;
    assert_eq!(take(&mut resumed, 1).await.0, [2]);
}

#[tokio::test]
async fn a_tenants_caller_never_gets_anybody_elses_events() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    let (own, mut caller) = tenant_admin(&server, "harbour").await;
    let (other, _) = tenant_admin(&server, "meadow").await;
    let mut live = stream(&mut caller, ours(), None).await;
    caught_up(&mut live).await;
    record(&server, (0..30).map(|n| numbered([Some(own), Some(other), None][n as usize % 3], n))).await;

    let expected: Vec<i64> = (0..30).step_by(3).collect();
    assert_eq!(take(&mut live, 10).await.0, expected, "live");
    let mut past = stream(&mut caller, ours(), Some(Start::FromBeginning(true))).await;
    assert_eq!(take(&mut past, 10).await.0, expected, "from the table");
    let request = ListEventsRequest { page_size: 1000, ..Default::default() };
    let listed = caller.audit.list_events(request.clone()).await.unwrap().into_inner().events;
    assert!(listed.len() >= 10 && listed.iter().all(|event| event.tenant_id == own.to_string()));

    let all = admin.audit.list_events(request).await.unwrap().into_inner().events;
    for foreign in all.iter().filter(|event| event.tenant_id != own.to_string()) {
        for key in [
            get_event_request::Event::EventId(foreign.event_id.clone()),
            get_event_request::Event::Position(foreign.position),
        ] {
            let status = caller.audit.get_event(GetEventRequest { event: Some(key) }).await.unwrap_err();
            assert_eq!(status.code(), Code::NotFound);
        }
    }
    let filter = AuditFilter { tenant_id: other.to_string(), ..Default::default() };
    let request = ListEventsRequest { filter: Some(filter.clone()), ..Default::default() };
    assert_eq!(caller.audit.list_events(request).await.unwrap_err().code(), Code::PermissionDenied);
    let request = StreamEventsRequest { filter: Some(filter), ..Default::default() };
    assert_eq!(caller.audit.stream_events(request).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_stream_goes_on_from_its_cursor_on_any_replica() {
    let setup = Setup::new().await;
    let servers = [setup.start().await, setup.start().await];
    let admin = servers[0].admin().await;
    let token = servers[0].sign_in("root@platform.example").await.access_token;
    drop(admin);
    let mut clients = servers.each_ref().map(|server| server.client(&token));
    record(&servers[0], (0..20).map(|n| numbered(None, n))).await;

    let mut start = Start::FromBeginning(true);
    let mut seen = Vec::new();
    for turn in 0..10 {
        // New events are recorded while a stream is read and while none is open.
        record(&servers[turn % 2], (0..3).map(|n| numbered(None, 20 + 3 * turn as i64 + n))).await;
        let mut open = stream(&mut clients[turn % 2], ours(), Some(start)).await;
        let (numbers, cursor) = take(&mut open, 5).await;
        seen.extend(numbers);
        start = Start::Cursor(cursor);
    }
    assert!(seen.into_iter().eq(0..50));
}

#[tokio::test]
async fn a_stream_from_now_has_only_what_comes_and_shows_that_it_lives() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    record(&server, [numbered(None, 1)]).await;
    take(&mut stream(&mut admin, ours(), Some(Start::FromBeginning(true))).await, 1).await;
    let request = StreamEventsRequest {
        filter: Some(ours()),
        start: Some(Start::FromNow(true)),
        heartbeat_interval: Some(Duration::from_secs(1).try_into().unwrap()),
    };
    let mut live = admin.audit.stream_events(request).await.unwrap().into_inner();
    caught_up(&mut live).await;
    let heartbeat = within("a heartbeat", live.message()).await.unwrap().unwrap();
    assert!(heartbeat.event.is_none() && heartbeat.caught_up);
    record(&server, [numbered(None, 2)]).await;
    assert_eq!(take(&mut live, 1).await.0, [2]);
    let mut resumed = stream(&mut admin, ours(), Some(Start::Cursor(heartbeat.cursor))).await;
    assert_eq!(take(&mut resumed, 1).await.0, [2]);
}

#[tokio::test]
async fn a_stream_ends_in_order_when_the_server_stops() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    let mut live = stream(&mut admin, ours(), None).await;
    caught_up(&mut live).await;
    let (ended, ()) = tokio::join!(live.message(), server.stop());
    assert!(ended.expect("not an error").is_none());
}

#[tokio::test]
async fn a_stream_ends_with_the_session_that_opened_it() {
    let server = TestServer::start().await;
    server.admin().await;
    let tokens = server.sign_in("root@platform.example").await;
    let mut second = server.client(&tokens.access_token);
    let mut live = stream(&mut second, ours(), None).await;
    caught_up(&mut live).await;
    second.session.revoke_session(RevokeSessionRequest::default()).await.expect("anybody may end their own session");
    record(&server, [numbered(None, 1)]).await;
    let status = within("the end of the stream", live.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn whoever_may_read_can_check_what_the_log_committed_to() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    let user = Uuid::from_u128(5);
    let event = Event::new(EventType::MigrationItemLinked, &call())
        .target("user", user)
        .personal("email", "ann@example.com")
        .old_new(serde_json::json!({"status": "active"}), serde_json::json!({"status": "disabled"}))
        .detail("number", 1);
    let mut live = stream(&mut admin, ours(), None).await;
    caught_up(&mut live).await;
    record(&server, [event]).await;
    let streamed = within("the event", live.message()).await.unwrap().unwrap().event.unwrap();
    let key = Some(get_event_request::Event::EventId(streamed.event_id.clone()));
    let got = admin.audit.get_event(GetEventRequest { event: key }).await.unwrap().into_inner();
    assert_eq!(got.event.as_ref(), Some(&streamed), "the same live and from the table");

    let personal = streamed.personal.unwrap();
    assert_eq!((personal.email.as_str(), personal.subject_id), ("ann@example.com", user.to_string()));
    let status = &personal.new_values.unwrap().fields["status"].kind;
    assert_eq!(*status, Some(prost_types::value::Kind::StringValue("disabled".to_owned())));
    let origin = streamed.origin.unwrap();
    assert_eq!((origin.ip_address.as_str(), origin.user_agent.as_str()), ("203.0.113.7", "agent/1.0"));

    assert_eq!(streamed.leaf_hash, Sha256::new().chain_update([0]).chain_update(&got.leaf).finalize().to_vec());
    for opening in [&got.origin_opening, &got.personal_opening] {
        let commitment = Sha256::new().chain_update([2]).chain_update(opening).finalize();
        assert!(got.leaf.windows(32).any(|window| window == commitment.as_slice()));
    }
    assert!(got.personal_opening.ends_with(br#""status":"active"}}"#), "the data follows the random bytes");
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_by_field() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    let filter = |change: fn(&mut AuditFilter)| {
        let mut filter = AuditFilter::default();
        change(&mut filter);
        filter
    };
    for (field, filter) in [
        ("filter.tenant_id", filter(|filter| filter.tenant_id = "x".to_owned())),
        ("filter.types", filter(|filter| filter.types = vec!["user.nothing".to_owned()])),
        ("filter.actor_id", filter(|filter| filter.actor_id = "{}".to_owned())),
        ("filter.target_kind", filter(|filter| filter.target_kind = "k".repeat(65))),
        ("filter.target_id", filter(|filter| filter.target_id = "a\0b".to_owned())),
        ("filter.session_id", filter(|filter| filter.session_id = "1".to_owned())),
        ("filter.correlation_id", filter(|filter| filter.correlation_id = "1".to_owned())),
        ("filter.outcome", filter(|filter| filter.outcome = 99)),
    ] {
        let list = ListEventsRequest { filter: Some(filter.clone()), ..Default::default() };
        let open = StreamEventsRequest { filter: Some(filter), ..Default::default() };
        for status in
            [admin.audit.list_events(list).await.unwrap_err(), admin.audit.stream_events(open).await.unwrap_err()]
        {
            assert_eq!(status.code(), Code::InvalidArgument, "{field}");
            let details = status.get_error_details();
            assert_eq!(details.bad_request().unwrap().field_violations[0].field, field);
        }
    }
    let far = prost_types::Timestamp { seconds: i64::MAX, nanos: 0 };
    for request in [
        ListEventsRequest { page_size: -1, ..Default::default() },
        ListEventsRequest { order: 9, ..Default::default() },
        ListEventsRequest { recorded_from: Some(far), ..Default::default() },
        ListEventsRequest { recorded_before: Some(far), ..Default::default() },
        ListEventsRequest { page_token: "nonsense".to_owned(), ..Default::default() },
    ] {
        assert_eq!(admin.audit.list_events(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
    for start in
        [Start::Cursor(String::new()), Start::FromNow(false), Start::FromBeginning(false), Start::RecordedFrom(far)]
    {
        let request = StreamEventsRequest { start: Some(start), ..Default::default() };
        assert_eq!(admin.audit.stream_events(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
    for (event, code) in [
        (None, Code::InvalidArgument),
        (Some(get_event_request::Event::EventId("x".to_owned())), Code::InvalidArgument),
        (Some(get_event_request::Event::EventId(Uuid::from_u128(1).to_string())), Code::NotFound),
        (Some(get_event_request::Event::Position(0)), Code::NotFound),
        (Some(get_event_request::Event::Position(i64::MIN)), Code::NotFound),
        (Some(get_event_request::Event::Position(i64::MAX)), Code::NotFound),
    ] {
        assert_eq!(admin.audit.get_event(GetEventRequest { event }).await.unwrap_err().code(), code);
    }
}
