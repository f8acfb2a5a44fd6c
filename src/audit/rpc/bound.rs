//! What page tokens and cursors of the audit log are bound to.

use serde::Serialize;
use uuid::Uuid;

use crate::audit::Wanted;
use crate::db::Scope;

/// The method that cursors belong to.
pub(super) const STREAM: &str = "StreamEvents";

/// What a cursor is bound to besides its caller.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Bound {
    pub tenant: Option<Uuid>,
    pub wanted: Wanted,
    pub recorded_from: Option<i64>,
    pub recorded_before: Option<i64>,
    pub newest_first: bool,
}

impl Bound {
    pub fn to_filter(scope: Scope, wanted: &Wanted) -> Self {
        Self {
            tenant: scope.tenant(),
            wanted: wanted.clone(),
            recorded_from: None,
            recorded_before: None,
            newest_first: false,
        }
    }
}
