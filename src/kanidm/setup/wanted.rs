//! What is to be in Kanidm.

use reqwest::Url;

/// Groups of the service account, which give it its rights. `docs/decisions/0006` says why these.
pub const RIGHTS: [&str; 3] = ["idm_people_on_boarding", "idm_group_admins", "idm_account_mail_read"];

/// What Sidle asks for at a login, and what its client has to be allowed to.
pub(super) const SCOPES: [&str; 4] = ["email", "groups", "openid", "profile"];

/// What entries that are made here are described as.
pub(super) const DESCRIPTION: &str = "Made by `sidle kanidm setup`";
/// What administrates the service account.
pub(super) const MANAGER: &str = "idm_admins";

/// What setup calls its token.
pub(super) const LABEL: &str = "sidle";

/// What the entries are called.
#[derive(Clone, Debug)]
pub struct Names {
    /// The service account.
    pub account: String,
    /// The OAuth2 client.
    pub client: String,
    /// The group whose members may sign in through Kanidm.
    pub persons: String,
}

/// What is to be there.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub names: Names,
    /// Where the portal of Kanidm leads. Kanidm lets logins return there as well.
    pub landing: String,
    /// Where logins return to.
    pub redirects: Vec<String>,
}

/// An address that a browser may be sent to with a code, as Kanidm writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginAddress {
    pub whole: String,
    /// The same without path and query.
    pub root: String,
}

impl LoginAddress {
    /// Reads an address.
    ///
    /// # Errors
    /// Why a code must not be sent there.
    pub fn read(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|e| e.to_string())?;
        let is_here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if url.scheme() != "https" && !(url.scheme() == "http" && is_here) {
            return Err("it is neither https nor on the person's own machine".to_owned());
        }
        if url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
            return Err("it has a fragment or a user name".to_owned());
        }
        let root = format!("{}/", url.origin().ascii_serialization());
        Ok(Self { whole: url.to_string(), root })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_goes_over_https_or_to_the_persons_own_machine() {
        for good in ["https://a.example/cb", "http://127.0.0.1:8421/callback", "http://[::1]:1/", "http://localhost/"] {
            assert!(LoginAddress::read(good).is_ok(), "{good}");
        }
        for bad in ["http://a.example/cb", "a.example", "https://a@b.example/", "https://a.example/#x", "javascript:1"]
        {
            assert!(LoginAddress::read(bad).is_err(), "{bad}");
        }
        let address = LoginAddress::read("https://a.example:8443/cb?x=1").unwrap();
        assert_eq!(address.root, "https://a.example:8443/");
    }
}
