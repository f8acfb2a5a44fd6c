//! An item in the engine's hands.

use uuid::Uuid;

use crate::kanidm::NewPerson;
use crate::migration::vocabulary::{ItemReason, ItemState};

/// An item that was taken up, as the database had it at that moment.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub item_id: Uuid,
    pub ordinal: i32,
    pub tenant_id: Uuid,
    pub user_version: i64,
    pub user_rights_version: i64,
    /// The person that is meant; its uuid is the user's id.
    pub person: NewPerson,
    pub state: ItemState,
    /// Whether an intent was recorded before this taking-up, so that the person may be there already.
    pub had_intent: bool,
    /// Why the user is no longer the one that was planned for, if so.
    pub change: Option<ItemReason>,
}

/// What became of an item.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settled {
    pub item_id: Uuid,
    pub user_id: Uuid,
    pub state: ItemState,
    pub reason: Option<ItemReason>,
}

impl Item {
    pub(super) fn becomes(&self, state: ItemState, reason: Option<ItemReason>) -> Settled {
        Settled { item_id: self.item_id, user_id: self.person.uuid, state, reason }
    }
}

/// How far an item came in this taking-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Whether the person exists is not known.
    Intended,
    /// The person exists and is ours.
    Exists,
    /// The person is in its groups.
    Grouped,
    /// Another replica has taken the job over: nothing is written.
    Lost,
    /// It goes no further: failed, skipped or needs review, for the reason.
    Out(ItemState, ItemReason),
}

impl Stage {
    pub(super) fn failed(reason: ItemReason) -> Self {
        Self::Out(ItemState::Failed, reason)
    }

    pub(super) fn review(reason: ItemReason) -> Self {
        Self::Out(ItemState::NeedsReview, reason)
    }

    pub(super) fn skipped(reason: ItemReason) -> Self {
        Self::Out(ItemState::Skipped, reason)
    }
}

/// An item and how far it came.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub item: Item,
    pub stage: Stage,
}
