//! What every RPC asks of its caller, read from the option on the RPC in the proto files.

/// What an RPC asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing.
    Public,
    /// A valid access token.
    Authenticated,
    /// A valid access token for what is the caller's own; this permission for anything else.
    Own(&'static str),
    /// This permission.
    Permission(&'static str),
}

mod generated {
    use super::Policy;
    include!(concat!(env!("OUT_DIR"), "/policies.rs"));
}

/// The policy of the RPC at `path`, such as `/sidle.v1.SessionService/GetSession`; none for an RPC that is not ours.
pub fn of(path: &str) -> Option<Policy> {
    generated::POLICIES.binary_search_by_key(&path, |(path, _)| path).ok().map(|at| generated::POLICIES[at].1)
}

/// Every RPC and its policy.
pub fn all() -> &'static [(&'static str, Policy)] {
    generated::POLICIES
}

/// The largest message of a request of the RPC at `path`, in bytes; none for an RPC that is not ours.
pub fn max_request_bytes(path: &str) -> Option<u32> {
    generated::REQUEST_BYTES.binary_search_by_key(&path, |(path, _)| path).ok().map(|at| generated::REQUEST_BYTES[at].1)
}

/// The RPC of this full name, such as `sidle.v1.AuthenticateService/DisableTotp`, if it asks for a fresh proof of who is
/// calling.
pub fn sensitive(name: &str) -> Option<&'static str> {
    let path = generated::STEP_UP.binary_search_by_key(&name, |path| path.trim_start_matches('/')).ok();
    path.map(|at| generated::STEP_UP[at].trim_start_matches('/'))
}

/// Numbers of the fields in the request of a sensitive RPC that do not change what it does.
pub(crate) fn aside(path: &str) -> Option<&'static [u32]> {
    generated::ASIDE.binary_search_by_key(&path, |(path, _)| path).ok().map(|at| generated::ASIDE[at].1)
}

/// The full name of every RPC that asks for a fresh proof of who is calling.
pub fn all_sensitive() -> impl Iterator<Item = &'static str> {
    generated::STEP_UP.iter().map(|path| path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_finds_every_rpc() {
        assert!(all().windows(2).all(|pair| pair[0].0 < pair[1].0), "sorted for the binary search");
        for (path, policy) in all() {
            assert_eq!(of(path), Some(*policy));
        }
        assert_eq!(of("/sidle.v1.SessionService/Nothing"), None);
    }

    /// What callers may send without a login is small, and what is large is a short list on purpose.
    #[test]
    fn every_rpc_bounds_its_messages_and_few_take_large_ones() {
        for (path, policy) in all() {
            let largest = max_request_bytes(path).expect("every RPC has a limit");
            assert!(largest > 0 && (*policy != Policy::Public || largest <= 64 * 1024), "{path}: {largest}");
        }
        let large = all().iter().filter(|(path, _)| max_request_bytes(path) > Some(256 * 1024));
        let large: Vec<&str> = large.map(|(path, _)| path.rsplit('/').next().unwrap_or_default()).collect();
        assert_eq!(large, ["RecordEvents", "VerifyTokens", "ImportUsers", "PlanMigration"]);
        assert_eq!(max_request_bytes("/grpc.health.v1.Health/Check"), None);
    }

    #[test]
    fn a_proof_is_for_an_rpc_that_asks_for_one() {
        assert!(all_sensitive().count() > 3);
        for name in all_sensitive() {
            assert_eq!(sensitive(name), Some(name));
        }
        for other in ["", "/", "sidle.v1.SessionService/GetSession", "/sidle.v1.AuthenticateService/DisableTotp"] {
            assert_eq!(sensitive(other), None, "{other}");
        }
    }

    /// What only reads, by the beginning of its name.
    const READS: [&str; 8] = ["Export", "Get", "List", "Stream", "VerifyToken", "Watch", "WhoAmI", "PlanMigration"];

    /// RPCs that change something and ask for no fresh proof, with the reason. What adds a way to sign in, gives rights or
    /// makes a credential that outlasts the session does not belong here.
    const WITHOUT_A_PROOF: &[(&str, &str)] = &[
        ("AuditService/EraseSubject", "erases data; not implemented yet"),
        ("AuditService/RecordEvents", "writes events, which grant nothing; not implemented yet"),
        ("AuthenticateService/AuthenticatePassword", "is an authentication method"),
        ("AuthenticateService/AuthenticateServiceAccount", "is an authentication method"),
        ("AuthenticateService/ChangePassword", "shows the present password itself"),
        ("AuthenticateService/CompleteKanidmLogin", "ends what StartKanidmLogin began, with its proof where it links"),
        ("AuthenticateService/CompleteMfa", "is an authentication method"),
        ("AuthenticateService/ConfirmTotp", "ends what EnrollTotp began with its proof"),
        ("AuthenticateService/RedeemInvitation", "shows the password and every factor itself"),
        ("AuthenticateService/RefreshToken", "goes on with a session and no further than that"),
        ("AuthenticateService/Register", "makes an account for whoever has the mailbox, where that is open"),
        ("AuthenticateService/RequestPasswordReset", "sends mail to the owner of the account"),
        ("AuthenticateService/ResetPassword", "shows the token from the mailbox"),
        ("AuthenticateService/StepUp", "is the proof"),
        ("AuthenticateService/VerifyEmail", "shows the token from the mailbox"),
        ("DirectoryService/CreateRole", "creates a role that nobody has; granting it asks for a proof"),
        ("DirectoryService/DeleteApiKey", "revokes access, which must not wait"),
        ("DirectoryService/DeleteMembership", "revokes access, which must not wait"),
        ("DirectoryService/DeleteRole", "deletes only what nobody has"),
        ("DirectoryService/DeleteServiceAccount", "revokes access, which must not wait"),
        ("DirectoryService/DeleteTenant", "deletes only a tenant that is nobody's home"),
        ("DirectoryService/DeleteUser", "revokes access, which must not wait"),
        ("DirectoryService/DisableUser", "revokes access, which must not wait"),
        ("DirectoryService/LockUser", "revokes access, which must not wait"),
        (
            "DirectoryService/RestoreUser",
            "restores a user as disabled; EnableUser asks for a proof. Not implemented yet",
        ),
        ("MigrationService/CancelMigration", "ends work; not implemented yet"),
        ("MigrationService/FinalizeMigration", "removes passwords; not implemented yet"),
        ("MigrationService/PauseMigration", "pauses work; not implemented yet"),
        (
            "MigrationService/ResolveMigrationItem",
            "not implemented yet; it must ask for a proof once it can link a person who existed before",
        ),
        ("MigrationService/ResumeMigration", "goes on with what was started; not implemented yet"),
        ("MigrationService/RetryMigrationItems", "goes on with what was started; not implemented yet"),
        (
            "MigrationService/RollbackMigration",
            "not implemented yet; it must ask for a proof once it restores passwords",
        ),
        (
            "MigrationService/SendInvitations",
            "sends mail; the link is redeemed with the user's own password and factors",
        ),
        ("MigrationService/StartMigration", "creates persons without any credential, who get one by their own proofs"),
        ("MigrationService/SyncTenantGroups", "creates groups without members"),
        (
            "MigrationService/UpdateTenantRollout",
            "not implemented yet; it must ask for a proof once it admits more users",
        ),
        ("SessionService/RevokeAllSessions", "revokes access, which must not wait"),
        ("SessionService/RevokeSession", "revokes access, which must not wait"),
    ];

    #[test]
    fn every_rpc_that_changes_something_asks_for_a_proof_or_says_why_not() {
        for (path, _) in all() {
            let rpc = path.trim_start_matches("/sidle.v1.");
            let name = rpc.rsplit('/').next().unwrap_or_default();
            let reads = READS.iter().any(|prefix| name.starts_with(prefix));
            let asks = sensitive(path.trim_start_matches('/')).is_some();
            let is_exempt = WITHOUT_A_PROOF.iter().any(|(exempt, why)| *exempt == rpc && !why.is_empty());
            let decided = [reads, asks, is_exempt].into_iter().filter(|so| *so).count();
            assert_eq!(decided, 1, "{rpc}: decide whether it needs a fresh proof (docs/decisions/0009)");
        }
        for (exempt, _) in WITHOUT_A_PROOF {
            assert!(of(&format!("/sidle.v1.{exempt}")).is_some(), "{exempt} is no RPC");
        }
    }

    /// What may be called without credentials is a short list on purpose.
    #[test]
    fn only_authentication_methods_are_public() {
        let public: Vec<&str> = all()
            .iter()
            .filter(|(_, policy)| *policy == Policy::Public)
            .map(|(path, _)| path.rsplit('/').next().unwrap_or_default())
            .collect();
        assert_eq!(
            public,
            [
                "AuthenticatePassword",
                "AuthenticateServiceAccount",
                "CompleteKanidmLogin",
                "CompleteMfa",
                "GetJwks",
                "RedeemInvitation",
                "RefreshToken",
                "Register",
                "RequestPasswordReset",
                "ResetPassword",
                "StartKanidmLogin",
                "VerifyEmail",
            ]
        );
    }
}
