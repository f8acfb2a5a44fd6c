//! What the RPCs of the directory are served by, and have in common.

use uuid::Uuid;

use crate::access::paging::{Paging, cut};
use crate::directory::Directory;

/// `sidle.v1.DirectoryService`.
#[derive(Clone)]
pub struct Service {
    pub(super) directory: Directory,
    pub(super) paging: Paging,
}

impl Service {
    pub fn new(directory: Directory, paging: Paging) -> Self {
        Self { directory, paging }
    }
}

/// Cuts what was read with one entry too many to a page, and says where the next one begins.
pub(in crate::directory) fn page<T, P>(
    mut found: Vec<T>,
    size: i64,
    position: impl Fn(&T) -> P,
) -> (Vec<T>, Option<P>) {
    let next = cut(&mut found, size).map(position);
    (found, next)
}

/// The first id that a list can begin after.
pub(in crate::directory) const BEGINNING: Uuid = Uuid::nil();
