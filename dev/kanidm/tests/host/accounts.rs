use serde_json::json;

use kanidmd_lib::prelude::Uuid;

use crate::support::{Host, person};

#[test]
fn a_batch_is_created_whole_or_not_at_all() {
    let host = Host::start();
    let admin = host.idm_admin();
    let good = Uuid::new_v4();
    let path = format!("/v1/person/{good}");

    let entries = json!({"entries": [person("good", good), person("Not A Name", Uuid::new_v4())]});
    let refused = host.send("POST", "/v1/raw/create", &admin, entries);
    assert_eq!(refused.status, 400);
    let reason = json!({"schemaviolation": {"invalidattributesyntax": "name"}});
    assert_eq!(refused.json(), reason);
    assert_eq!(host.get(&path, &admin).ok(), json!(null));

    let entries = json!({"entries": [person("good", good), person("better", Uuid::new_v4())]});
    host.send("POST", "/v1/raw/create", &admin, entries).ok();
    assert_eq!(host.get(&path, &admin).ok()["attrs"]["name"], json!(["good"]));
    assert_eq!(host.get("/v1/person/better", &admin).ok()["attrs"]["name"], json!(["better"]));
}

#[test]
fn a_name_is_no_mail_address_and_is_stored_in_lower_case() {
    let host = Host::start();
    let admin = host.idm_admin();
    let named = |name| json!({"attrs": {"name": [name], "displayname": ["A Person"]}});

    let refused = host.send("POST", "/v1/person", &admin, named("alice@example.com"));
    assert_eq!(refused.status, 400);
    let reason = json!({"schemaviolation": {"invalidattributesyntax": "name"}});
    assert_eq!(refused.json(), reason);

    host.send("POST", "/v1/person", &admin, named("Alice")).ok();
    assert_eq!(host.get("/v1/person/alice", &admin).ok()["attrs"]["name"], json!(["alice"]));
}

#[test]
fn creating_the_same_uuid_again_says_so_even_after_deletion() {
    let host = Host::start();
    let admin = host.idm_admin();
    let uuid = host.create_person(&admin, "alice");
    let again = || host.send("POST", "/v1/raw/create", &admin, json!({"entries": [person("alice", uuid)]}));
    let duplicate = json!({"plugin": {"base": "Uuid duplicate found in database"}});

    assert_eq!(again().status, 500);
    assert_eq!(again().json(), duplicate);
    host.send("DELETE", &format!("/v1/person/{uuid}"), &admin, json!(null)).ok();
    assert_eq!(host.get(&format!("/v1/person/{uuid}"), &admin).ok(), json!(null));
    assert_eq!(again().json(), duplicate);
}

#[test]
fn nobody_gets_in_without_a_credential_or_rights() {
    let host = Host::start();
    let nobody = host.get("/v1/person", "");
    assert_eq!((nobody.status, nobody.json()), (401, json!("notauthenticated")));
    assert_eq!(host.get("/v1/person", "Bearer nonsense").status, 401);

    let admin = host.idm_admin();
    let account = json!({"attrs": {"name": ["sidle"], "displayname": ["Sidle"], "entry_managed_by": ["idm_admins"]}});
    host.send("POST", "/v1/service_account", &admin, account).ok();
    let wanted = json!({"label": "test", "expiry": null, "read_write": true});
    let token = host.send("POST", "/v1/service_account/sidle/_api_token", &admin, wanted).ok();
    let sidle = format!("Bearer {}", token.as_str().expect("a token"));

    let entries = || json!({"entries": [person("alice", Uuid::new_v4())]});
    let refused = host.send("POST", "/v1/raw/create", &sidle, entries());
    assert_eq!((refused.status, refused.json()), (403, json!("accessdenied")));
    let on_boarding = "/v1/group/idm_people_on_boarding/_attr/member";
    host.send("POST", on_boarding, &admin, json!(["sidle"])).ok();
    host.send("POST", "/v1/raw/create", &sidle, entries()).ok();
}

#[test]
fn members_are_added_removed_and_must_exist() {
    let host = Host::start();
    let admin = host.idm_admin();
    let (alice, bob) = (host.create_person(&admin, "alice"), host.create_person(&admin, "bob"));
    host.send("POST", "/v1/group", &admin, json!({"attrs": {"name": ["crew"]}})).ok();
    let path = "/v1/group/crew/_attr/member";
    let members = || host.get(path, &admin).ok();

    host.send("POST", path, &admin, json!([alice, bob])).ok();
    host.send("POST", path, &admin, json!([alice])).ok();
    assert_eq!(members().as_array().map(Vec::len), Some(2));
    host.send("DELETE", path, &admin, json!([alice])).ok();
    assert_eq!(members(), json!(["bob@localhost"]));
    let unknown = host.send("POST", path, &admin, json!([Uuid::new_v4()]));
    let reason = json!({"plugin": {"referentialintegrity": "Uuid referenced not found in database"}});
    assert_eq!((unknown.status, unknown.json()), (500, reason));
    assert_eq!(members(), json!(["bob@localhost"]));
}

/// A client that names the values to remove from an account must learn here that Kanidm ignores them.
#[test]
fn removing_values_spares_the_others_of_a_group_but_not_of_an_account() {
    let host = Host::start();
    let admin = host.idm_admin();
    let alice = host.create_person(&admin, "alice");
    let path = "/v1/person/alice/_attr/mail";
    let mail = |values| host.send("PUT", path, &admin, values).ok();
    mail(json!(["alice@example.com", "a@example.com"]));
    host.send("DELETE", path, &admin, json!(["a@example.com"])).ok();
    assert_eq!(host.get(path, &admin).ok(), json!(null));

    let crew = json!({"attrs": {"name": ["crew"], "member": [alice]}});
    host.send("POST", "/v1/group", &admin, crew).ok();
    let members = "/v1/group/crew/_attr/member";
    let other = host.create_person(&admin, "bob");
    host.send("DELETE", members, &admin, json!([other])).ok();
    assert_eq!(host.get(members, &admin).ok(), json!(["alice@localhost"]));
    host.send("DELETE", members, &admin, json!([])).ok();
    assert_eq!(host.get(members, &admin).ok(), json!(null));
}
