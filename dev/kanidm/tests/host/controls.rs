use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use kanidmd_lib::prelude::Uuid;

use crate::support::{Body, Host, person};

const CREATE: &str = "/v1/raw/create";

fn exists(host: &Host, admin: &str, name: &str) -> bool {
    host.get(&format!("/v1/person/{name}"), admin).ok() != json!(null)
}

fn entries(name: &str) -> Value {
    json!({"entries": [person(name, Uuid::new_v4())]})
}

#[test]
fn a_dropped_reply_is_performed_and_a_closed_connection_is_not() {
    let host = Host::start();
    let admin = host.idm_admin();
    let lost = |name| {
        let body = Body::Json(entries(name));
        host.try_call("POST", CREATE, &admin, &[], body).is_err()
    };

    host.fault(json!({"mode": "drop_reply", "path_prefix": CREATE, "count": 1}));
    host.fault(json!({"mode": "close", "path_prefix": CREATE, "count": 1}));
    assert!(lost("dropped"));
    assert!(lost("closed"));
    assert!(!lost("served"));
    assert!(exists(&host, &admin, "dropped"));
    assert!(!exists(&host, &admin, "closed"));
    assert!(exists(&host, &admin, "served"));
}

#[test]
fn faults_hit_what_they_name_when_they_say_and_as_often() {
    let host = Host::start();
    let admin = host.idm_admin();
    let create = |name| host.send("POST", CREATE, &admin, entries(name));

    host.fault(json!({"mode": "fail", "path_prefix": CREATE, "method": "post", "status": 502,
        "after": 1, "count": 1}));
    let statuses = ["a", "b", "c"].map(|name| create(name).status);
    assert_eq!(statuses, [200, 502, 200]);
    assert!(!exists(&host, &admin, "b"));

    host.fault(json!({"mode": "garbage", "path_prefix": "/v1/raw"}));
    let garbage = create("d");
    assert_eq!(garbage.status, 200);
    assert!(serde_json::from_str::<Value>(&garbage.text).is_err());
    assert!(!exists(&host, &admin, "d"));
    host.clear_faults();
    assert_eq!(create("d").json(), json!(null));

    let unknown = json!({"mode": "fail", "path_prefix": "/", "cuont": 1});
    assert_eq!(host.send("POST", "/_dev/fault", "", unknown).status, 422);
}

#[test]
fn a_stalled_request_is_performed_once_the_faults_are_cleared() {
    let host = Host::start();
    let admin = host.idm_admin();
    host.fault(json!({"mode": "stall", "path_prefix": CREATE}));
    std::thread::scope(|scope| {
        let held = scope.spawn(|| host.send("POST", CREATE, &admin, entries("held")));
        while host.requests("POST /v1/raw/create") == 0 {}
        assert!(!exists(&host, &admin, "held"));
        host.clear_faults();
        held.join().expect("no panic").ok();
    });
    assert!(exists(&host, &admin, "held"));
}

#[test]
fn a_stall_with_a_limit_ends_by_itself() {
    let host = Host::start();
    let admin = host.idm_admin();
    host.fault(json!({"mode": "stall", "path_prefix": CREATE, "stall_ms": 1}));
    host.send("POST", CREATE, &admin, entries("held")).ok();
    assert!(exists(&host, &admin, "held"));
}

#[test]
fn requests_are_counted_by_method_and_template() {
    let host = Host::start();
    host.get("/v1/person/alice", "");
    host.get("/v1/person/bob", "");
    host.get("/nowhere", "");
    assert_eq!(host.requests("GET /v1/person/{id}"), 2);
    assert_eq!(host.requests("GET (no such path)"), 1);
    assert_eq!(host.requests("GET /_dev/requests"), 0);
}

#[test]
fn the_clock_can_be_advanced_past_the_life_of_a_reset_link() {
    let host = Host::start();
    let admin = host.idm_admin();
    host.create_person(&admin, "alice");
    let exchange = |link| host.send("POST", "/v1/credential/_exchange_intent", "", json!(link));

    let (early, late) = (host.reset_link(&admin, "alice"), host.reset_link(&admin, "alice"));
    assert_eq!(exchange(early).status, 200);
    host.advance(301);
    let expired = exchange(late);
    assert_eq!((expired.status, expired.json()), (401, json!("sessionexpired")));
    let absurd = json!({"advance_seconds": u64::MAX});
    assert_eq!(host.send("POST", "/_dev/clock", "", absurd).status, 400);
}

#[test]
fn a_state_directory_survives_a_restart_and_memory_does_not() {
    let state = std::env::temp_dir().join(format!("dev-kanidm-{}", Uuid::new_v4()));
    let first = Host::start_in(&state);
    let ready = first.ready.clone();
    first.create_person(&first.idm_admin(), "alice");
    assert!(first.stop().success());
    let mode = fs::metadata(state.join("passwords.json")).expect("kept").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let second = Host::start_in(&state);
    assert_eq!(second.ready["idm_admin_password"], ready["idm_admin_password"]);
    assert_eq!(second.ready["admin_password"], ready["admin_password"]);
    assert!(exists(&second, &second.idm_admin(), "alice"));
    drop(second);
    fs::remove_dir_all(&state).expect("removed");

    let third = Host::start();
    assert!(!exists(&third, &third.idm_admin(), "alice"));
}
