//! The contract as a client meets it: every RPC exists, and those that this release does not implement say so.

use std::collections::BTreeSet;

use sidle::access::policies;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use crate::support::{TestServer, within};

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
