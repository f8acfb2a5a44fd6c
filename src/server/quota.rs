//! Amounts that clients share, such as open connections or bytes held for them: so much together, and of that so much for
//! each client. A permit gives back what it holds when it is dropped.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

/// What is counted as one client: an IPv4 address, the /64 network that one IPv6 subscriber has at least, or a caller who
/// has signed in, from wherever they call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Client {
    V4([u8; 4]),
    V6([u8; 8]),
    Caller(Uuid),
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// Which bound is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// Together.
    Total,
    /// For this client.
    Client,
}

/// An amount that clients share. Clones share it as well.
#[derive(Clone, Debug)]
pub(super) struct Quota {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    total: usize,
    each: usize,
    taken: Mutex<InUse>,
}

#[derive(Debug, Default)]
struct InUse {
    total: usize,
    by: HashMap<Client, usize>,
}

impl Quota {
    /// `total` for all together, `each` for one client.
    pub(super) fn new(total: usize, each: usize) -> Self {
        Self { inner: Arc::new(Inner { total, each, taken: Mutex::default() }) }
    }

    /// Takes `amount` for the client at `address`; without one only the total counts.
    ///
    /// # Errors
    /// When there is not so much left. Then nothing is taken.
    pub(super) fn take(&self, address: Option<IpAddr>, amount: usize) -> Result<Permit, Full> {
        self.take_for(address.map(Client::from), amount)
    }

    /// Takes `amount` for the user or service account that has signed in.
    ///
    /// # Errors
    /// When there is not so much left. Then nothing is taken.
    pub(super) fn take_as(&self, caller: Uuid, amount: usize) -> Result<Permit, Full> {
        self.take_for(Some(Client::Caller(caller)), amount)
    }

    fn take_for(&self, client: Option<Client>, amount: usize) -> Result<Permit, Full> {
        let mut permit = Permit { quota: self.clone(), client, amount: 0 };
        permit.set(amount)?;
        Ok(permit)
    }

    /// `total` for all together, a quarter of it for one client: no one client, and no three, take everything.
    pub(super) fn quartered(total: usize) -> Self {
        Self::new(total, (total / 4).max(1))
    }

    /// What all permits hold together.
    #[cfg(test)]
    fn taken(&self) -> usize {
        self.lock().total
    }

    fn lock(&self) -> MutexGuard<'_, InUse> {
        // Nothing panics while it is held, and numbers are never half written.
        self.inner.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one holder has of a quota.
#[derive(Debug)]
pub(super) struct Permit {
    quota: Quota,
    client: Option<Client>,
    amount: usize,
}

impl Permit {
    /// Holds `amount` from now on, more or less than before.
    ///
    /// # Errors
    /// When there is not so much left. Then it holds what it held.
    pub(super) fn set(&mut self, amount: usize) -> Result<(), Full> {
        if amount == self.amount {
            return Ok(());
        }
        let quota = self.quota.clone();
        let mut taken = quota.lock();
        let total = taken.total - self.amount + amount;
        let own = self.client.map(|client| taken.by.get(&client).copied().unwrap_or_default() - self.amount + amount);
        if amount > self.amount {
            if total > quota.inner.total {
                return Err(Full::Total);
            }
            if own.is_some_and(|own| own > quota.inner.each) {
                return Err(Full::Client);
            }
        }
        taken.total = total;
        if let (Some(client), Some(own)) = (self.client, own) {
            // Clients that hold nothing are forgotten, so that the table is no larger than what is held.
            if own == 0 {
                taken.by.remove(&client);
            } else {
                taken.by.insert(client, own);
            }
        }
        self.amount = amount;
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Less than before is always granted.
        let _ = self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Option<IpAddr> {
        Some(address.parse().unwrap())
    }

    #[test]
    fn a_client_takes_its_part_and_all_together_no_more_than_there_is() {
        let quota = Quota::new(5, 3);
        let mut ann = quota.take(at("192.0.2.1"), 3).unwrap();
        assert_eq!(quota.take(at("192.0.2.1"), 1).unwrap_err(), Full::Client);
        assert_eq!(quota.take(at("::ffff:192.0.2.1"), 1).unwrap_err(), Full::Client, "the same address");
        let bob = quota.take(at("192.0.2.2"), 2).unwrap();
        assert_eq!(quota.take(at("192.0.2.3"), 1).unwrap_err(), Full::Total);
        assert_eq!(quota.take(None, 1).unwrap_err(), Full::Total);
        assert_eq!(ann.set(4), Err(Full::Total));
        assert_eq!(quota.taken(), 5, "what was refused is not held");
        drop(bob);
        ann.set(1).unwrap();
        assert_eq!(quota.taken(), 1);
        assert_eq!(ann.set(4), Err(Full::Client));
        drop(ann);
        assert_eq!(quota.taken(), 0);
        assert!(quota.lock().by.is_empty(), "nobody is remembered who holds nothing");
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let quota = Quota::new(9, 1);
        let _held = quota.take(at("2001:db8:0:1::1"), 1).unwrap();
        assert_eq!(quota.take(at("2001:db8:0:1:ffff::2"), 1).unwrap_err(), Full::Client);
        assert!(quota.take(at("2001:db8:0:2::1"), 1).is_ok());
    }

    #[test]
    fn who_has_signed_in_is_one_client_wherever_they_call_from() {
        let quota = Quota::quartered(8);
        let (ann, bob) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let _held = quota.take_as(ann, 2).unwrap();
        assert_eq!(quota.take_as(ann, 1).unwrap_err(), Full::Client);
        assert!(quota.take_as(bob, 2).is_ok());
        assert_eq!(Quota::quartered(1).take_as(ann, 1).map(drop), Ok(()), "a quarter is at least one");
    }

    #[test]
    fn without_an_address_only_the_total_counts() {
        let quota = Quota::new(4, 1);
        let held: Vec<Permit> = (0..4).map(|_| quota.take(None, 1).unwrap()).collect();
        assert_eq!(quota.take(None, 1).unwrap_err(), Full::Total);
        drop(held);
        assert_eq!(quota.taken(), 0);
    }
}
