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

/// The RPC of this full name, such as `sidle.v1.AuthenticateService/DisableTotp`, if it asks for a fresh proof of who is
/// calling.
pub fn sensitive(name: &str) -> Option<&'static str> {
    let path = generated::STEP_UP.binary_search_by_key(&name, |path| path.trim_start_matches('/')).ok();
    path.map(|at| generated::STEP_UP[at].trim_start_matches('/'))
}

/// Numbers of the fields in the request of a sensitive RPC that do not change what it does.
pub(super) fn aside(path: &str) -> Option<&'static [u32]> {
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

    /// Who may come in without credentials is a short list on purpose.
    #[test]
    fn only_the_ways_in_are_public() {
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
