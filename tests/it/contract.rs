//! The contract as a client meets it: every RPC exists, and those that this release does not implement say so.

use std::collections::BTreeSet;

use sidle::access::policies;
use sidle::proto;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use crate::support::{ADMIN_PASSWORD, Client, TestServer, within};

/// RPCs of the contract that answer `UNIMPLEMENTED` for now. An implementation of one removes it from this list.
const NOT_IMPLEMENTED: &[&str] = &[
    "AuditService/EraseSubject",
    "AuditService/ExportEvents",
    "AuditService/GetCheckpoint",
    "AuditService/GetConsistencyProof",
    "AuditService/GetInclusionProof",
    "AuditService/RecordEvents",
    "DirectoryService/RestoreUser",
    "MigrationService/CancelMigration",
    "MigrationService/ExportUsers",
    "MigrationService/FinalizeMigration",
    "MigrationService/GetMigrationReport",
    "MigrationService/GetReadiness",
    "MigrationService/GetSchemaStatus",
    "MigrationService/GetTenantRollout",
    "MigrationService/ListUnmigratedUsers",
    "MigrationService/PauseMigration",
    "MigrationService/ResolveMigrationItem",
    "MigrationService/ResumeMigration",
    "MigrationService/RetryMigrationItems",
    "MigrationService/RollbackMigration",
    "MigrationService/SendInvitations",
    "MigrationService/UpdateTenantRollout",
];

/// Sends an empty message to `path` and returns the first error, if there is one.
async fn poke(server: &TestServer, path: &str, token: &str) -> Option<tonic::Status> {
    let mut grpc = Grpc::new(server.channel.clone());
    grpc.ready().await.unwrap();
    let mut request = Request::new(());
    if !token.is_empty() {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let codec = sidle::codec::Codec::<(), ()>::default();
    let uri = PathAndQuery::try_from(path.to_owned()).unwrap();
    match grpc.server_streaming(request, uri, codec).await {
        Err(status) => Some(status),
        Ok(response) => {
            // Every stream answers immediately: with its state, or with its end.
            within(path, response.into_inner().message()).await.err()
        }
    }
}

async fn admin_token(server: &TestServer) -> String {
    let tenant = server.tenant("platform").await;
    server.user(tenant, "root@platform.example", "SYSTEM_ADMIN").await;
    server.sign_in("root@platform.example").await.access_token
}

#[tokio::test]
async fn exactly_the_listed_rpcs_are_not_implemented() {
    let server = TestServer::start().await;
    admin_token(&server).await;
    let mut found = BTreeSet::new();
    for (path, _) in policies() {
        // A session for each: an empty RevokeAllSessions ends all of the caller's.
        let token = server.sign_in("root@platform.example").await.access_token;
        if let Some(status) = poke(&server, path, &token).await {
            assert_ne!(status.code(), Code::Internal, "{path}: {status:?}");
            if status.code() == Code::Unimplemented {
                let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
                assert_eq!(reason.as_deref(), Some("NOT_IMPLEMENTED"), "{path}");
                found.insert(path.trim_start_matches("/sidle.v1.").to_owned());
            }
        }
    }
    let listed: BTreeSet<String> = NOT_IMPLEMENTED.iter().map(|rpc| (*rpc).to_owned()).collect();
    let (missing, extra): (Vec<_>, Vec<_>) = (listed.difference(&found).collect(), found.difference(&listed).collect());
    assert!(
        missing.is_empty() && extra.is_empty(),
        "implemented, take off the list: {missing:?}; not listed: {extra:?}"
    );
}

#[tokio::test]
async fn nothing_but_the_ways_in_answers_without_a_token() {
    let server = TestServer::start().await;
    for (path, policy) in policies() {
        if *policy == sidle::access::Policy::Public {
            continue;
        }
        let status = poke(&server, path, "").await.unwrap_or_else(|| panic!("{path} answered"));
        assert_eq!(status.code(), Code::Unauthenticated, "{path}");
        let status = poke(&server, path, "not.a.token").await.unwrap_or_else(|| panic!("{path} answered"));
        assert_eq!(status.code(), Code::Unauthenticated, "{path}");
    }
}

/// A member without any permission is refused where one is required.
#[tokio::test]
async fn permissions_are_asked_for_before_anything_else() {
    let server = TestServer::start().await;
    let tenant = server.tenant("harbour").await;
    server.user(tenant, "plain@harbour.example", "user").await;
    let token = server.sign_in("plain@harbour.example").await.access_token;
    let mut asked = 0;
    for (path, policy) in policies() {
        if let sidle::access::Policy::Permission(permission) = policy {
            let status = poke(&server, path, &token).await.unwrap_or_else(|| panic!("{path} answered"));
            assert_eq!(status.code(), Code::PermissionDenied, "{path}");
            let details = status.get_error_details();
            assert_eq!(details.error_info().unwrap().metadata["permission"], *permission, "{path}");
            asked += 1;
        }
    }
    assert!(asked > 40, "{asked} RPCs ask for a permission");
}

/// Clients commonly take 8 KiB of headers, and report an error of their own in place of one that does not fit.
#[tokio::test]
async fn a_user_of_many_tenants_is_told_to_choose_one_and_where_the_others_are_listed() {
    let server = TestServer::start().await;
    let home = server.tenant("home").await;
    let user = server.user(home, "ann@example.com", "user").await;
    let tenants = "INSERT INTO tenants (tenant_id, slug, name)
                   SELECT gen_random_uuid(), 'tenant-' || n, 'Tenant ' || n FROM generate_series(1, 400) n";
    sqlx::query(tenants).execute(server.sql()).await.unwrap();
    let join = "INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source)
                SELECT gen_random_uuid(), t.tenant_id, $1, r.role_id, 'local'
                FROM tenants t CROSS JOIN roles r WHERE t.slug LIKE 'tenant-%' AND r.name = 'user' AND r.tenant_id IS NULL";
    sqlx::query(join).bind(user).execute(server.sql()).await.unwrap();
    let disable = "UPDATE tenants SET status = 'disabled' WHERE tenant_id = $1";
    sqlx::query(disable).bind(home).execute(server.sql()).await.unwrap();

    let endpoint = tonic::transport::Endpoint::from_shared(server.grpc_url()).unwrap();
    let channel = endpoint.http2_max_header_list_size(8 * 1024).connect().await.unwrap();
    let mut nobody = Client::new(channel.clone(), "").authenticate;
    let login = |tenant_id: &str| proto::AuthenticatePasswordRequest {
        identifier: "ann@example.com".to_owned(),
        password: ADMIN_PASSWORD.to_owned(),
        tenant_id: tenant_id.to_owned(),
        ..Default::default()
    };
    let refused = nobody.authenticate_password(login("")).await.unwrap_err();
    let info = refused.get_details_error_info().unwrap_or_else(|| panic!("a reason: {refused:?}"));
    assert_eq!(info.reason, "TENANT_REQUIRED");
    let named: Vec<&str> = info.metadata["tenants"].split(',').collect();
    let left_out: usize = info.metadata["tenants_left_out"].parse().unwrap();
    assert_eq!(named.len() + left_out, 400, "what is not named is counted");

    let signed_in = nobody.authenticate_password(login(named[0])).await.unwrap().into_inner().outcome;
    let Some(proto::authenticate_password_response::Outcome::SignedIn(signed_in)) = signed_in else {
        panic!("signed in")
    };
    let token = signed_in.tokens.unwrap().access_token;
    let me = Client::new(channel, &token).authenticate.who_am_i(proto::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!(me.tenants.len(), 400, "all of them are there");
}
