//! Why work is left for later.

use crate::fault::Fault;
use crate::kanidm::{Concern, KanidmError};
use crate::migration::vocabulary::WaitReason;

/// Why Kanidm cannot be worked with at the moment. Items keep their state and are taken up again later.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub wait: WaitReason,
    pub cause: KanidmError,
    /// Whether it may be something that no waiting changes: how often in a row, and for how long, that may be is bounded.
    pub is_unclear: bool,
}

impl Trouble {
    /// The trouble that an error means which is about no entry.
    pub(super) fn of(cause: KanidmError) -> Self {
        let wait = match cause.concern() {
            Concern::Access => WaitReason::KanidmAccessDenied,
            Concern::State | Concern::Size => WaitReason::KanidmFailing,
            Concern::Time => WaitReason::KanidmTooSlow,
            Concern::Reach => WaitReason::KanidmUnavailable,
            // Something in its place answers: a page, a text. Told apart from a refusal of Kanidm's own.
            Concern::Unclear if !matches!(cause, KanidmError::Refused(..)) => WaitReason::KanidmUnavailable,
            // A question and a group know no entry that could be refused.
            Concern::Unclear | Concern::Entry => WaitReason::KanidmAnswersUnclear,
        };
        let is_unclear = matches!(cause.concern(), Concern::Unclear | Concern::Entry);
        Self { wait, cause, is_unclear }
    }

    /// The trouble of entries that were tried alone while Kanidm answers questions: they may be to blame themselves.
    pub(super) fn of_single(cause: KanidmError) -> Self {
        Self { is_unclear: true, ..Self::of(cause) }
    }

    /// The trouble of a tenant whose group was deleted. It can be restored, whenever that is.
    pub(super) fn group_deleted(cause: KanidmError) -> Self {
        Self { wait: WaitReason::TenantGroupDeleted, cause, is_unclear: false }
    }
}

/// Why a batch goes no further.
pub(super) enum Halt {
    /// Kanidm cannot be worked with.
    Trouble(Trouble),
    /// We cannot.
    Fault(Fault),
}

impl From<Trouble> for Halt {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<Fault> for Halt {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}
