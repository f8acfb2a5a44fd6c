//! What can happen. One list, so that a reader of the log finds every name it can hold.

use std::fmt;

macro_rules! event_types {
    ($($(#[doc = $meaning:literal])+ $variant:ident => $name:literal,)+) => {
        /// What happened, named `domain.verb`. The prefix `ext.` is kept for events of other services.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum EventType {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl EventType {
            /// Every type there is.
            pub fn all() -> &'static [Self] {
                &[$(Self::$variant,)+]
            }

            /// Its name in the log.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it means, in one sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($meaning),+).trim_ascii(),)+ }
            }
        }
    };
}

event_types! {
    /// Somebody signed in.
    UserAuthenticated => "user.authenticated",
    /// Somebody failed to sign in as a user.
    UserLoginRefused => "user.login_refused",
    /// A user was locked out from guessing, by too many failures or by an administrator.
    UserLocked => "user.locked",
    /// A known device of a user was locked out from guessing, by too many failures.
    UserDeviceLocked => "user.device_locked",
    /// The password was right, and the login waits for a second factor.
    UserSecondFactorRequired => "user.second_factor_required",
    /// Somebody who is signed in failed to show a secret of theirs once more.
    UserReauthenticationFailed => "user.reauthentication_failed",
    /// A lock was taken off a user.
    UserUnlocked => "user.unlocked",
    /// Somebody asked for an account; there is none before its address is confirmed.
    UserRegistrationRequested => "user.registration_requested",
    /// Somebody registered as a user.
    UserRegistered => "user.registered",
    /// A user was created by an administrator or by a first login through Kanidm.
    UserCreated => "user.created",
    /// A user's record was changed.
    UserUpdated => "user.updated",
    /// A user's rights changed, so that access tokens from before are no longer accepted.
    UserAccessChanged => "user.access_changed",
    /// A user was switched off.
    UserDisabled => "user.disabled",
    /// A user was switched on again.
    UserEnabled => "user.enabled",
    /// A user was deleted.
    UserDeleted => "user.deleted",
    /// A deleted user was brought back.
    UserRestored => "user.restored",
    /// A user showed that the e-mail address is theirs.
    UserEmailVerified => "user.email_verified",
    /// What was set for a user before their address was confirmed for the first time was removed: password, second factor.
    UserCredentialsRemoved => "user.credentials_removed",
    /// A user's password was changed by the user.
    UserPasswordChanged => "user.password_changed",
    /// A user's password was hashed anew at a login, because the old hash was weaker than today's.
    UserPasswordRehashed => "user.password_rehashed",
    /// Somebody asked for a link to set a new password.
    UserPasswordResetRequested => "user.password_reset_requested",
    /// A request for a new password found its user, who was sent a link unless the reason says why not.
    UserPasswordResetSent => "user.password_reset_sent",
    /// A password was set anew through a link.
    UserPasswordReset => "user.password_reset",
    /// A user proved themselves once more for a sensitive call.
    UserSteppedUp => "user.stepped_up",
    /// A user failed to prove themselves once more.
    UserStepUpRefused => "user.step_up_refused",
    /// A user began to enrol a one-time password generator.
    UserTotpEnrolled => "user.totp_enrolled",
    /// A user confirmed a one-time password generator, which counts from then on.
    UserTotpConfirmed => "user.totp_confirmed",
    /// A user's one-time password generator was taken off.
    UserTotpDisabled => "user.totp_disabled",
    /// A user got new recovery codes.
    UserRecoveryCodesRegenerated => "user.recovery_codes_regenerated",
    /// A recovery code was used, in place of a code of the authenticator application.
    UserRecoveryCodeUsed => "user.recovery_code_used",
    /// A user was linked to a Kanidm person by an administrator or by proving both sides.
    UserKanidmLinked => "user.kanidm_linked",
    /// A user's link to a Kanidm person was taken away.
    UserKanidmUnlinked => "user.kanidm_unlinked",
    /// A user signed in through Kanidm for the first time, which completes their migration.
    UserMigrated => "user.migrated",

    /// A session began.
    SessionCreated => "session.created",
    /// A session's tokens were replaced by new ones.
    SessionRefreshed => "session.refreshed",
    /// A refresh token was not accepted.
    SessionRefreshRefused => "session.refresh_refused",
    /// A refresh token was used a second time, and its whole family was ended.
    SessionRefreshReused => "session.refresh_reused",
    /// A session changed its active tenant.
    SessionTenantSwitched => "session.tenant_switched",
    /// A session was ended.
    SessionRevoked => "session.revoked",
    /// A user began more sessions than one may have, and those used longest ago were ended.
    SessionLimitReached => "session.limit_reached",
    /// All sessions of a user or service account were ended, and access tokens issued until then.
    SessionAllRevoked => "session.all_revoked",

    /// An authenticated caller was refused what they may not do: for lack of a permission, or of a fresh proof.
    AccessDenied => "access.denied",
    /// A bad access token was presented; only a sample of these is recorded.
    AccessTokenRefused => "access.token_refused",

    /// A tenant was created.
    TenantCreated => "tenant.created",
    /// A tenant's record was changed.
    TenantUpdated => "tenant.updated",
    /// A tenant was deleted.
    TenantDeleted => "tenant.deleted",
    /// A tenant's groups were made or confirmed in Kanidm.
    TenantGroupsSynced => "tenant.groups_synced",
    /// A tenant's roll-out settings were changed.
    TenantRolloutUpdated => "tenant.rollout_updated",

    /// A role was created.
    RoleCreated => "role.created",
    /// A role was changed.
    RoleUpdated => "role.updated",
    /// A role was deleted.
    RoleDeleted => "role.deleted",
    /// A user was given a role in a tenant.
    MembershipCreated => "membership.created",
    /// A role in a tenant was taken from a user.
    MembershipDeleted => "membership.deleted",
    /// A user's roles in a tenant were brought in line with their groups in Kanidm.
    MembershipSynced => "membership.synced",
    /// A user was given a role on the platform.
    PlatformRoleGranted => "platform.role_granted",
    /// A role on the platform was taken from a user.
    PlatformRoleRevoked => "platform.role_revoked",
    /// The first administrator was made.
    PlatformBootstrapped => "platform.bootstrapped",

    /// A service account was created.
    ServiceAccountCreated => "service_account.created",
    /// A service account was changed.
    ServiceAccountUpdated => "service_account.updated",
    /// A service account was deleted.
    ServiceAccountDeleted => "service_account.deleted",
    /// A service account exchanged a key for an access token.
    ServiceAccountAuthenticated => "service_account.authenticated",
    /// A service account's key was not accepted.
    ServiceAccountLoginRefused => "service_account.login_refused",
    /// An API key was created.
    ApiKeyCreated => "api_key.created",
    /// An API key was changed.
    ApiKeyUpdated => "api_key.updated",
    /// An API key was revoked.
    ApiKeyRevoked => "api_key.revoked",

    /// A batch of legacy users was imported; counts and digest stand in the details.
    MigrationUsersImported => "migration.users_imported",
    /// Users were exported.
    MigrationUsersExported => "migration.users_exported",
    /// A migration was planned.
    MigrationPlanned => "migration.planned",
    /// A migration was started.
    MigrationStarted => "migration.started",
    /// A migration's job was taken over from a replica that stopped giving signs of life.
    MigrationTakenOver => "migration.taken_over",
    /// A migration was paused.
    MigrationPaused => "migration.paused",
    /// A migration was resumed.
    MigrationResumed => "migration.resumed",
    /// A migration was cancelled.
    MigrationCancelled => "migration.cancelled",
    /// A migration came to its end; counts stand in the details.
    MigrationCompleted => "migration.completed",
    /// A migration stopped because it could not go on.
    MigrationFailed => "migration.failed",
    /// A migration was rolled back.
    MigrationRolledBack => "migration.rolled_back",
    /// A batch of a migration's items was dealt with; counts and digest stand in the details.
    MigrationBatchProcessed => "migration.batch_processed",
    /// A user became an item of a migration.
    MigrationItemAdded => "migration.item_added",
    /// The intent to create a user's Kanidm person was recorded, before it is created.
    MigrationItemIntended => "migration.item_intended",
    /// A user was linked to the Kanidm person that was made for them.
    MigrationItemLinked => "migration.item_linked",
    /// A user could not be migrated.
    MigrationItemFailed => "migration.item_failed",
    /// A user was left out of a migration.
    MigrationItemSkipped => "migration.item_skipped",
    /// A user's migration waits for a decision by a person.
    MigrationItemNeedsReview => "migration.item_needs_review",
    /// A failed item was put back to be tried again.
    MigrationItemRetried => "migration.item_retried",
    /// A person decided what becomes of an item.
    MigrationItemResolved => "migration.item_resolved",
    /// A user was put back to password-only login.
    MigrationItemRolledBack => "migration.item_rolled_back",
    /// An invitation to enrol in Kanidm was sent.
    MigrationInvitationSent => "migration.invitation_sent",
    /// An invitation was redeemed.
    MigrationInvitationRedeemed => "migration.invitation_redeemed",
    /// A login invited a user to enrol in Kanidm, in its answer or by mail.
    MigrationInvitationIssued => "migration.invitation_issued",
    /// An invitation was not accepted, after the password was; or the second factor was missing or wrong.
    MigrationInvitationRefused => "migration.invitation_refused",
    /// A password that was right at a login was set in Kanidm too.
    MigrationPasswordCarriedOver => "migration.password_carried_over",
    /// Kanidm did not take a password that was right at a login.
    MigrationPasswordNotCarriedOver => "migration.password_not_carried_over",
    /// The old password data was removed for good.
    MigrationFinalized => "migration.finalized",

    /// A signing key was made.
    SigningKeyCreated => "signing_key.created",
    /// A new signing key took over from an older one.
    SigningKeyRotated => "signing_key.rotated",
    /// A signing key stopped being accepted.
    SigningKeyRetired => "signing_key.retired",

    /// The log was found to be another one than a replica had read: events up to the old position are gone.
    AuditForked => "audit.forked",
    /// A range of the audit log was exported.
    AuditExported => "audit.exported",
    /// A person's data in the audit log was made unreadable.
    AuditSubjectErased => "audit.subject_erased",
}

impl EventType {
    /// The type of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::all().iter().copied().find(|known| known.as_str() == name)
    }

    /// The types of a domain, such as `session`.
    pub fn of_domain(domain: &str) -> impl Iterator<Item = Self> {
        let prefix = format!("{domain}.");
        Self::all().iter().copied().filter(move |known| known.as_str().starts_with(&prefix))
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_name_is_one_of_its_kind_and_none_is_reserved() {
        let names: HashSet<&str> = EventType::all().iter().map(|known| known.as_str()).collect();
        assert_eq!(names.len(), EventType::all().len());
        for name in names {
            let (domain, verb) = name.split_once('.').unwrap();
            assert!(domain != "ext" && !verb.contains('.'), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.'), "{name}");
        }
    }

    #[test]
    fn every_type_is_found_by_its_name_and_says_what_it_means() {
        for known in EventType::all() {
            assert_eq!(EventType::parse(known.as_str()), Some(*known));
            assert!(known.meaning().ends_with('.'), "{known}");
        }
        assert_eq!(EventType::parse("ext.order.cancelled"), None);
    }

    #[test]
    fn a_domain_has_its_own_types_only() {
        let sessions: Vec<EventType> = EventType::of_domain("session").collect();
        assert!(sessions.contains(&EventType::SessionRevoked) && !sessions.contains(&EventType::UserLocked));
        assert_eq!(EventType::of_domain("sess").count(), 0);
    }
}
