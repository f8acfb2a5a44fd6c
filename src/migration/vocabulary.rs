//! The module's enums as the database holds them: states and reasons. The contract has the same names in capitals.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! words {
    ($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $meaning:literal])+ $variant:ident => $word:literal,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl $name {
            /// Every value there is.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The value in the database.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The enum value of one in the database.
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == word)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = String::deserialize(deserializer)?;
                Self::parse(&word).ok_or_else(|| D::Error::custom(concat!("no word of ", stringify!($name))))
            }
        }
    };
}

words! {
    /// What becomes of an imported row.
    ImportOutcome {
        /// As the row says.
        Accepted => "accepted",
        /// With differences that the findings name.
        AcceptedWithRemarks => "accepted_with_remarks",
        /// It was there already.
        AlreadyImported => "already_imported",
        /// Not at all.
        Refused => "refused",
    }
}

words! {
    /// What an import found in a row.
    ImportReason {
        /// The client could not read the line.
        Unreadable => "unreadable",
        /// No address.
        EmailMissing => "email_missing",
        /// No valid address.
        EmailInvalid => "email_invalid",
        /// An earlier row has the address.
        EmailDuplicate => "email_duplicate",
        /// Another user has the address.
        EmailTaken => "email_taken",
        /// No well-formed bcrypt hash.
        BrokenHash => "broken_hash",
        /// Too expensive to check.
        HashCostTooHigh => "hash_cost_too_high",
        /// No such active tenant.
        UnknownTenant => "unknown_tenant",
        /// No tenant named.
        TenantMissing => "tenant_missing",
        /// No such role, or one that cannot be imported.
        UnknownRole => "unknown_role",
        /// A value is too long.
        ValueTooLong => "value_too_long",
        /// A value holds a control character.
        InvalidCharacter => "invalid_character",
        /// No valid time.
        InvalidTime => "invalid_time",
        /// Imported before, with other content.
        RowChanged => "row_changed",
        /// An earlier row has the legacy id.
        LegacyIdDuplicate => "legacy_id_duplicate",
        /// Another user has the id.
        UserIdTaken => "user_id_taken",
        /// The tenant is for addresses of other domains.
        EmailForeignDomain => "email_foreign_domain",
        /// Remark: no password.
        NoPassword => "no_password",
        /// Remark: the username was dropped, it cannot be used.
        UsernameInvalid => "username_invalid",
        /// Remark: the username was dropped, another user has it.
        UsernameTaken => "username_taken",
        /// Remark: was inactive.
        Inactive => "inactive",
        /// Remark: a hash of the faulty kind.
        OldHash => "old_hash",
        /// Remark: a hash that is cheap to guess.
        LowCost => "low_cost",
    }
}

words! {
    /// What will become of a plan's item.
    Forecast {
        /// A person will be created and linked.
        WillBeCreated => "will_be_created",
        /// An administrator will have to decide.
        NeedsReview => "needs_review",
        /// It is bound to fail.
        WillBeRefused => "will_be_refused",
    }
}

words! {
    /// What a migration does.
    MigrationKind {
        /// Moves the users of a plan.
        Bulk => "bulk",
        /// Moves users as they sign in.
        AtLogin => "at_login",
        /// Takes users back.
        Rollback => "rollback",
    }
}

words! {
    /// Where a migration stands.
    MigrationState {
        /// No replica has taken it up.
        Pending => "pending",
        /// In work.
        Running => "running",
        /// Held.
        Paused => "paused",
        /// About to be cancelled.
        Cancelling => "cancelling",
        /// Ended early.
        Cancelled => "cancelled",
        /// Every item is finished.
        Completed => "completed",
    }
}

words! {
    /// What a running migration waits for.
    WaitReason {
        /// Kanidm does not answer as it should.
        KanidmUnavailable => "kanidm_unavailable",
        /// Kanidm denies the service account what it needs.
        KanidmAccessDenied => "kanidm_access_denied",
        /// Kanidm does not answer within the time limit.
        KanidmTooSlow => "kanidm_too_slow",
        /// Kanidm says that it cannot do its work.
        KanidmFailing => "kanidm_failing",
        /// What Kanidm answers to every entry cannot be understood.
        KanidmAnswersUnclear => "kanidm_answers_unclear",
        /// A tenant's group was deleted in Kanidm.
        TenantGroupDeleted => "tenant_group_deleted",
    }
}

words! {
    /// How far an item has come.
    ItemState {
        /// Not taken up.
        Pending => "pending",
        /// The person may or may not exist.
        IntentRecorded => "intent_recorded",
        /// The person exists.
        Created => "created",
        /// The person is in its groups.
        Grouped => "grouped",
        /// The user is linked to the person.
        Linked => "linked",
        /// Given up.
        Failed => "failed",
        /// Left alone.
        Skipped => "skipped",
        /// Waits for a decision.
        NeedsReview => "needs_review",
        /// Taken back after it was linked.
        RolledBack => "rolled_back",
    }
}

words! {
    /// Why an item failed, was skipped or needs review.
    ItemReason {
        /// Another person has the address.
        MailTaken => "mail_taken",
        /// Another entry has the name.
        NameTaken => "name_taken",
        /// Kanidm does not accept the name.
        NameRefused => "name_refused",
        /// Kanidm does not accept the address.
        MailRefused => "mail_refused",
        /// Kanidm does not accept the person.
        PersonRefused => "person_refused",
        /// A group of ours by name is not ours.
        GroupNotOurs => "group_not_ours",
        /// The person is in the recycle bin.
        PersonDeleted => "person_deleted",
        /// The address is not verified.
        MailUnverified => "mail_unverified",
        /// The tenant is for addresses of other domains.
        MailForeignDomain => "mail_foreign_domain",
        /// The user has roles beyond the tenant that the plan was made in.
        UserAboveCaller => "user_above_caller",
        /// The user changed since the plan.
        UserChanged => "user_changed",
        /// The user was deleted since the plan.
        UserDeleted => "user_deleted",
        /// The user is linked already.
        AlreadyMigrated => "already_migrated",
        /// The migration was cancelled.
        Cancelled => "cancelled",
        /// The migration stopped because of what Kanidm answered.
        Stopped => "stopped",
        /// Another migration holds the user.
        InOtherMigration => "in_other_migration",
        /// A person with the uuid is there that we did not make.
        PersonNotOurs => "person_not_ours",
        /// The person with the uuid is not as planned.
        PersonDiffers => "person_differs",
        /// The person with the uuid can sign in already.
        PersonHasCredential => "person_has_credential",
        /// The user changed after the person had been created.
        UserChangedMeanwhile => "user_changed_meanwhile",
        /// Kanidm's answer for this person could not be understood.
        AnswerUnclear => "answer_unclear",
    }
}

impl ImportReason {
    /// What can be done about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Unreadable => "Correct the line in the file and import the file again.",
            Self::EmailMissing => "Give the user an e-mail address in the old system, or create the user by hand.",
            Self::EmailInvalid => "Correct the address; it must be such as name@example.com.",
            Self::EmailDuplicate => "Decide which of the rows is the person, and remove or change the other.",
            Self::EmailTaken => {
                "Use the user who has the address already, for example by adding a membership, or change one of the addresses."
            }
            Self::BrokenHash => "Import the row with an empty hash; the user then sets a new password.",
            Self::HashCostTooHigh => "Import the row with an empty hash; the user then sets a new password.",
            Self::UnknownTenant => "Create the tenant, or map the value to one in the header.",
            Self::TenantMissing => "Name the tenant in the row, or a default tenant in the header.",
            Self::UnknownRole => {
                "Create the role, or map the value to one in the header; platform roles are given by an administrator."
            }
            Self::ValueTooLong => "Shorten the value.",
            Self::InvalidCharacter => "Remove the control character.",
            Self::InvalidTime => "Correct the time of creation, or leave it out.",
            Self::RowChanged => "Change the user in Sidle; an import does not overwrite.",
            Self::LegacyIdDuplicate => "Give every row an id of its own, or none.",
            Self::EmailForeignDomain => {
                "Correct the address or the tenant, or have the platform add the domain to the tenant's settings."
            }
            Self::UserIdTaken => "Give the row another id, or none.",
            Self::NoPassword => "Nothing: the user sets a password with a reset link, or signs in through Kanidm.",
            Self::UsernameInvalid => "Nothing: the user signs in with the e-mail address.",
            Self::UsernameTaken => "Nothing: the user signs in with the e-mail address.",
            Self::Inactive => "Enable the user if the old system was wrong.",
            Self::OldHash => "Nothing: the next login replaces the hash.",
            Self::LowCost => "Nothing: the next login replaces the hash.",
        }
    }
}

impl ItemReason {
    /// What can be done about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::MailTaken => {
                "See whose the address is in Kanidm: link that person to the user, or change one of the addresses, and plan again."
            }
            Self::NameTaken => "Plan again: the new plan chooses another name.",
            Self::NameRefused => "Give the user a username of a-z 0-9 . _ - that begins with a letter, and plan again.",
            Self::MailRefused => "Change the user's address to one that Kanidm accepts, and plan again.",
            Self::MailUnverified => {
                "Have the user confirm the address or set a new password by mail, or have the platform enable them with a \
                 verified address or add its domain to the tenant's settings, and plan again."
            }
            Self::MailForeignDomain => {
                "Correct the address, or have the platform add its domain to the tenant's settings, and plan again."
            }
            Self::UserAboveCaller => "Have somebody with the permission on the platform move the user.",
            Self::PersonRefused => {
                "Look for the migration item in the service's log, which names what Kanidm objected to."
            }
            Self::GroupNotOurs => {
                "Have a Kanidm administrator rename or remove the group, run SyncTenantGroups, and plan again."
            }
            Self::PersonDeleted => {
                "Have a Kanidm administrator revive the person from the recycle bin or purge it, and plan again."
            }
            Self::UserChanged => "Plan again, so that the user moves as they are now.",
            Self::UserDeleted => "Nothing: the user is gone.",
            Self::AlreadyMigrated => "Nothing: the user is linked to Kanidm.",
            Self::Cancelled => "Plan again, if the user shall move after all.",
            Self::Stopped => "See what the migration waited for, have it put right in Kanidm, and plan again.",
            Self::InOtherMigration => "Wait for the other migration to end.",
            Self::PersonNotOurs => {
                "See in Kanidm who made the person; link it to the user if it is theirs, or have it removed."
            }
            Self::PersonDiffers => {
                "Compare the person with the plan; link it to the user if it is theirs, or have it removed."
            }
            Self::PersonHasCredential => {
                "Find out who enrolled the credential; link the person only if it was the user."
            }
            Self::UserChangedMeanwhile => {
                "Compare the person with the user; correct the one that is out of date, then link them."
            }
            Self::AnswerUnclear => {
                "Look for the item in the service's log, which has the status that was answered, and for what stands between Sidle and Kanidm; then plan again."
            }
        }
    }
}

impl ItemState {
    /// Whether the engine still has to do something about it.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::IntentRecorded | Self::Created | Self::Grouped)
    }
}

impl MigrationState {
    /// Whether nothing happens any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Cancelled | Self::Completed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_and_remedies_are_sentences() {
        for reason in ImportReason::ALL {
            assert_eq!(ImportReason::parse(reason.as_str()), Some(*reason));
            assert!(reason.remedy().ends_with('.'), "{reason}");
        }
        for reason in ItemReason::ALL {
            assert_eq!(ItemReason::parse(reason.as_str()), Some(*reason));
            assert!(reason.remedy().ends_with('.'), "{reason}");
        }
        assert_eq!(ItemState::parse("nothing"), None);
    }
}
