//! Rate limits that a call is charged before any work whose cost its caller chooses: so much a minute for one address, or for
//! one caller who has signed in. Held in memory and thus the first thing that a call meets; the exact count over all replicas
//! is the database's (`authenticate/login/throttle.rs`). A permit for the hashing threads is given for a charge only.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use crate::access::Call;
use crate::config::{RateLimit, ThrottleConfig};
use crate::context::Clock;
use crate::fault::{Fault, Reason, Result};
use crate::metrics::Metrics;

/// Accounts that are remembered. Beyond these some are forgotten, and the database alone counts those.
const MOST: usize = 65_536;

/// Who is charged for a call, and shares the hashing threads with others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Account {
    /// A client address as it is counted; none where the call has no address.
    Network(Option<String>),
    /// A user or a service account that has signed in.
    Principal(Uuid),
    /// An operator who runs a command beside the service.
    Operator,
}

/// The receipt for the call that this value belongs to.
#[derive(Debug)]
pub struct Charge {
    account: Account,
}

impl Charge {
    /// For a command that is run with the configuration of the service in hand.
    pub fn operator() -> Arc<Self> {
        Arc::new(Self { account: Account::Operator })
    }

    pub(super) fn account(&self) -> &Account {
        &self.account
    }

    #[cfg(test)]
    pub(super) fn of(address: &str) -> Self {
        Self { account: Account::Network(Some(address.to_owned())) }
    }
}

/// Authentication methods that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateLimitBucket {
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
    /// What sends mail, perhaps to another user.
    Mail,
    /// Refresh tokens, which cannot be guessed: counted in memory only, and for each session in the database.
    Refresh,
}

impl RateLimitBucket {
    /// Its name in the database.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::SecondFactor => "second_factor",
            Self::Kanidm => "kanidm",
            Self::ServiceAccount => "service_account",
            Self::MailToken => "mail_token",
            Self::Mail => "mail",
            Self::Refresh => "refresh",
        }
    }

    /// Its limit; none where there is none.
    pub(crate) fn limit(self, config: &ThrottleConfig) -> Option<RateLimit> {
        let (per_minute, burst) = match self {
            Self::Mail => (config.mail_per_minute, config.mail_burst),
            Self::Refresh => (config.refresh_per_minute, config.refresh_burst),
            _ => (config.per_minute, config.burst),
        };
        RateLimit::per_minute(per_minute, burst)
    }
}

/// Charges calls. Clones share the accounts.
#[derive(Clone)]
pub struct Charges {
    inner: Arc<Inner>,
}

struct Inner {
    config: ThrottleConfig,
    clock: Clock,
    metrics: Metrics,
    accounts: Mutex<Accounts>,
}

/// When all that an account has asked for is paid off, in microseconds since 1970.
#[derive(Default)]
struct Accounts {
    free_at: HashMap<(Account, Option<RateLimitBucket>), i64>,
}

impl Charges {
    pub fn new(config: &ThrottleConfig, clock: Clock, metrics: Metrics) -> Self {
        Self { inner: Arc::new(Inner { config: config.clone(), clock, metrics, accounts: Mutex::default() }) }
    }

    /// Charges the client address of a call that needs no login.
    ///
    /// # Errors
    /// `THROTTLED`, with the time to wait.
    pub fn address(&self, call: &Call, lane: RateLimitBucket) -> Result<Arc<Charge>> {
        self.take(Account::Network(call.address.map(network)), Some(lane), lane.limit(&self.inner.config))
    }

    /// Charges a caller who has signed in.
    ///
    /// # Errors
    /// `THROTTLED`, with the time to wait.
    pub fn principal(&self, id: Uuid) -> Result<Arc<Charge>> {
        self.take(Account::Principal(id), None, RateLimitBucket::Password.limit(&self.inner.config))
    }

    fn take(&self, account: Account, lane: Option<RateLimitBucket>, limit: Option<RateLimit>) -> Result<Arc<Charge>> {
        if let Some(limit) = limit.filter(|_| account != Account::Network(None)) {
            let now = self.inner.clock.now().timestamp_micros();
            let mut accounts = self.inner.accounts.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(wait) = accounts.take((account.clone(), lane), now, limit) {
                return Err(self.throttled(wait));
            }
        }
        Ok(Arc::new(Charge { account }))
    }

    /// The refusal of a caller who asked too often.
    pub(crate) fn throttled(&self, wait: Duration) -> Fault {
        self.inner.metrics.denied(Reason::Throttled);
        Fault::new(Reason::Throttled, "Too many attempts from this address.").retry_after(wait)
    }
}

impl Accounts {
    /// Takes one call out of an account's rate limit, or says how long to wait for the next. What is refused is not
    /// charged, as in the database.
    fn take(
        &mut self,
        key: (Account, Option<RateLimitBucket>),
        now: i64,
        limit: RateLimit,
    ) -> std::result::Result<(), Duration> {
        if self.free_at.len() >= MOST && !self.free_at.contains_key(&key) {
            self.forget(now);
        }
        let (spacing, burst) = (micros(limit.spacing), micros(limit.burst));
        let free_at = self.free_at.entry(key).or_insert(now);
        let next = (*free_at).max(now).saturating_add(spacing);
        let wait = next.saturating_sub(burst).saturating_sub(now);
        if wait > 0 {
            return Err(Duration::from_micros(u64::try_from(wait.max(spacing)).unwrap_or_default()));
        }
        *free_at = next;
        Ok(())
    }

    /// Forgets those who have paid everything off and, where that is not enough, any others until a quarter is free: what
    /// this costs is then paid for by many calls.
    fn forget(&mut self, now: i64) {
        self.free_at.retain(|_, free_at| *free_at > now);
        let mut kept = 0;
        self.free_at.retain(|_, _| {
            kept += 1;
            kept <= MOST / 4 * 3
        });
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// What is counted as one client: the address, or the network that one IPv6 customer has to himself.
pub(crate) fn network(address: IpAddr) -> String {
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

    fn charges(per_minute: u32, burst: u32) -> (Charges, Clock) {
        let defaults = crate::config::Config::load(None, []).unwrap().throttle;
        let config = ThrottleConfig { per_minute, burst, ..defaults };
        let clock = Clock::system();
        (Charges::new(&config, clock.clone(), Metrics::new()), clock)
    }

    fn call(address: [u8; 4]) -> Call {
        Call { address: Some(address.into()), ..Call::internal(Uuid::nil()) }
    }

    #[test]
    fn an_address_has_its_burst_and_then_one_call_each_spacing() {
        let (charges, clock) = charges(1, 3);
        let ask = |address| charges.address(&call(address), RateLimitBucket::Password).map_err(|fault| fault.reason());
        for _ in 0..3 {
            ask([203, 0, 113, 7]).unwrap();
        }
        for _ in 0..10 {
            assert_eq!(ask([203, 0, 113, 7]).unwrap_err(), Reason::Throttled);
        }
        ask([203, 0, 113, 8]).expect("others are not concerned");
        charges.address(&call([203, 0, 113, 7]), RateLimitBucket::Kanidm).expect("nor is another lane");
        charges.principal(Uuid::nil()).expect("nor is who has signed in");
        clock.advance(Duration::from_secs(61));
        ask([203, 0, 113, 7]).unwrap();
        assert_eq!(ask([203, 0, 113, 7]).unwrap_err(), Reason::Throttled);
    }

    #[test]
    fn who_has_signed_in_is_charged_as_well() {
        let (charges, _) = charges(1, 2);
        let ask = |id| charges.principal(Uuid::from_u128(id)).map_err(|fault| fault.reason());
        for _ in 0..2 {
            ask(1).unwrap();
        }
        assert_eq!(ask(1).unwrap_err(), Reason::Throttled);
        ask(2).unwrap();
    }

    #[test]
    fn many_addresses_take_a_bounded_amount_of_memory() {
        let limit = RateLimit { spacing: Duration::from_secs(60), burst: Duration::from_secs(60) };
        let mut accounts = Accounts::default();
        for id in 0..(MOST as u128 * 2) {
            accounts.take((Account::Principal(Uuid::from_u128(id)), None), 0, limit).unwrap();
            assert!(accounts.free_at.len() <= MOST);
        }
    }

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
        let config = |per_minute, burst| {
            let defaults = crate::config::Config::load(None, []).unwrap().throttle;
            ThrottleConfig { per_minute, burst, mail_per_minute: 1, mail_burst: 0, ..defaults }
        };
        assert_eq!(RateLimitBucket::Password.limit(&config(0, 10)), None);
        let limit = RateLimit { spacing: Duration::from_millis(200), burst: Duration::from_secs(2) };
        assert_eq!(RateLimitBucket::Kanidm.limit(&config(300, 10)), Some(limit));
        let mail = RateLimit { spacing: Duration::from_secs(60), burst: Duration::from_secs(60) };
        assert_eq!(RateLimitBucket::Mail.limit(&config(0, 10)), Some(mail));
    }
}
