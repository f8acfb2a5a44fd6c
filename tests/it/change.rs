//! How a change may end.

use sidle::access::Call;
use sidle::access::replay::ChangeRequest;
use sidle::audit::{Event, EventType};
use sidle::change::Changes;
use sidle::db::Scope;
use sidle::fault::Reason;
use sidle::proto::CreateRoleResponse;
use uuid::Uuid;

use crate::support::TestServer;

#[tokio::test]
async fn a_change_that_is_to_be_answered_is_not_committed_without_its_answer() {
    let server = TestServer::start().await;
    let app = server.app();
    let changes = Changes::new(&app.core, app.sessions.revocations.clone());
    let call = Call::internal(Uuid::nil());
    for validate_only in [true, false] {
        let mut change = changes.begin(Scope::Platform).await.unwrap();
        let request = ChangeRequest::new("CreateRole", "", validate_only, &());
        assert_eq!(change.repeated::<CreateRoleResponse>(&call, &request).await.unwrap(), None);
        assert_eq!(change.commit().await.unwrap_err().reason(), Reason::Internal);
    }
    // Nor is one answered of which it is not known whether it is only to be validated.
    let change = changes.begin(Scope::Platform).await.unwrap();
    assert_eq!(change.answer(CreateRoleResponse::default()).await.unwrap_err().reason(), Reason::Internal);
}

#[tokio::test]
async fn a_change_that_is_only_validated_is_undone() {
    let server = TestServer::start().await;
    let app = server.app();
    let changes = Changes::new(&app.core, app.sessions.revocations.clone());
    for (validate_only, written) in [(true, 0), (false, 1)] {
        let mut change = changes.begin(Scope::Platform).await.unwrap();
        change.validate_only(validate_only);
        change.record(Event::by_system(EventType::RoleUpdated, Uuid::from_u128(9))).await.unwrap();
        change.answer(CreateRoleResponse::default()).await.unwrap();
        let count = "SELECT (SELECT count(*) FROM audit_inbox WHERE correlation_id = $1)
            + (SELECT count(*) FROM audit_events WHERE correlation_id = $1)";
        let found: i64 = sqlx::query_scalar(count).bind(Uuid::from_u128(9)).fetch_one(server.sql()).await.unwrap();
        assert_eq!(found, written);
    }
}
