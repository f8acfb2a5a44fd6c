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
