//! How much a client address may ask for: whoever guesses at many accounts has few addresses. Counted in memory first
//! (`charge.rs`) and in the database, so that it is the same over all replicas, and refused alike whatever was asked for.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Authenticate, Charge, store};
use crate::access::Call;
use crate::config::ThrottleConfig;
use crate::fault::Result;

/// Ways in that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Passwords. `AuthenticatePassword` takes this one by itself.
    Password,
    /// Codes that complete a login.
    SecondFactor,
    /// Logins through Kanidm.
    Kanidm,
    /// Programs.
    ServiceAccount,
    /// What came by mail: links and invitations.
    MailToken,
    /// What sends mail, to somebody else perhaps.
    Mail,
}

/// What one address may do: a call each `spacing`, and as many at once as fit into `burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub spacing: Duration,
    pub burst: Duration,
}

impl Lane {
    /// Its name in the database.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::SecondFactor => "second_factor",
            Self::Kanidm => "kanidm",
            Self::ServiceAccount => "service_account",
            Self::MailToken => "mail_token",
            Self::Mail => "mail",
        }
    }

    /// Its limit; none where there is none.
    pub(super) fn limit(self, config: &ThrottleConfig) -> Option<Limit> {
        let (per_minute, burst) = match self {
            Self::Mail => (config.mail_per_minute, config.mail_burst),
            _ => (config.per_minute, config.burst),
        };
        let spacing = Duration::from_secs(60).checked_div(per_minute)?;
        Some(Limit { spacing, burst: spacing.saturating_mul(burst.max(1)) })
    }
}

impl Authenticate {
    /// Takes this call out of what its client's address may ask for; for public calls, before anything else is done. One
    /// round trip, which those do not cost that this replica alone can refuse.
    ///
    /// # Errors
    /// `THROTTLED`, with the time to wait.
    pub async fn throttle(&self, call: &Call, lane: Lane) -> Result<Arc<Charge>> {
        let charge = self.hasher.charges().address(call, lane)?;
        if let (Some(address), Some(limit)) = (call.address, lane.limit(&self.config.throttle)) {
            let (network, now) = (network(address), self.context.now());
            if let Some(wait) = store::throttle::take(&self.db, lane, &network, now, limit).await? {
                return Err(self.hasher.charges().throttled(wait));
            }
        }
        Ok(charge)
    }
}

/// What is counted as one client: the address, or the network that one IPv6 customer has to himself.
pub(super) fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{}/64", std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_owns_a_network_is_one_client() {
        let network = |text: &str| network(text.parse().unwrap());
        assert_eq!(network("203.0.113.7"), "203.0.113.7");
        assert_eq!(network("::ffff:203.0.113.7"), "203.0.113.7", "the same client over another socket");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(network("2001:db8:1:2:ffff::1"), network("2001:db8:1:2::9"));
        assert_ne!(network("2001:db8:1:3::1"), network("2001:db8:1:2::1"));
    }

    #[test]
    fn a_limit_of_none_a_minute_is_no_limit() {
        let config = |per_minute, burst| ThrottleConfig { per_minute, burst, mail_per_minute: 1, mail_burst: 0 };
        assert_eq!(Lane::Password.limit(&config(0, 10)), None);
        let limit = Limit { spacing: Duration::from_millis(200), burst: Duration::from_secs(2) };
        assert_eq!(Lane::Kanidm.limit(&config(300, 10)), Some(limit));
        let mail = Limit { spacing: Duration::from_secs(60), burst: Duration::from_secs(60) };
        assert_eq!(Lane::Mail.limit(&config(0, 10)), Some(mail));
    }
}
