//! Threads that hash and judge passwords, and nothing else does. There are as many as cores, and a queue before them
//! that is only as long as can be worked off in the configured time: a caller that would have to wait longer is refused
//! before anything is done. Work is admitted for a charge only, and those who are charged are served in turn.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::bcrypt_hash::{self, BcryptHash, MAX_COST};
use super::charge::{Charge, Charges};
use super::pepper::Peppers;
use super::policy::Policy;
use super::queue::{Limits, Queue};
use super::strength;
use crate::config::{PasswordConfig, ThrottleConfig};
use crate::context::Context;
use crate::fault::{Fault, Reason, Result};
use crate::metrics::Metrics;

/// What a unit of work (one of the 2^cost rounds) is taken to cost before the first was measured.
const GUESSED_NANOS: u64 = 60_000;

/// The threads. Clones are the same ones; they end when the last clone does.
#[derive(Clone)]
pub struct Hasher {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    charges: Charges,
}

struct Shared {
    config: PasswordConfig,
    context: Context,
    metrics: Metrics,
    threads: usize,
    limits: Limits,
    peppers: Peppers,
    queue: Mutex<Queue<Job>>,
    arrived: Condvar,
    closed: AtomicBool,
    nanos_per_unit: AtomicU64,
    /// The highest cost in use when that was looked at last, which a refusal is filled up to.
    dearest: AtomicU32,
}

struct Job {
    work: Work,
    answer: oneshot::Sender<Done>,
    /// Held until the job is done or no caller waits for it any more.
    permit: Permit,
}

enum Work {
    /// Compares, and when that fails goes on until as much was done as for a hash of this cost.
    Verify {
        password: Zeroizing<String>,
        hash: Option<BcryptHash>,
        fill_to: u32,
    },
    Hash(ToHash),
    /// Hashes a new password unless it is easier to guess than this.
    Set {
        password: Zeroizing<String>,
        about: Vec<Zeroizing<String>>,
        min_strength: u8,
        hash: ToHash,
    },
}

struct ToHash {
    mixed: Zeroizing<String>,
    cost: u32,
    salt: [u8; 16],
}

enum Done {
    Verified(bool),
    Hashed(String),
    TooWeak,
}

/// Permit for one piece of work, issued for a charge.
pub struct Permit {
    shared: Arc<Shared>,
    charge: Arc<Charge>,
    units: u64,
}

/// A new hash, as the columns of `users` hold it.
#[derive(Clone, Debug)]
pub struct StoredHash {
    pub hash: String,
    pub cost: i16,
    /// Which pepper was mixed in.
    pub pepper_id: Option<i16>,
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hasher({} threads)", self.inner.shared.threads)
    }
}

impl Hasher {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system gives none, or a pepper cannot be read.
    pub fn new(config: PasswordConfig, throttle: &ThrottleConfig, context: Context, metrics: Metrics) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if config.threads == 0 { cores } else { config.threads };
        let peppers = Peppers::new(config.peppers().map_err(Fault::internal)?, config.pepper_new_hashes);
        let charges = Charges::new(throttle, context.clock.clone(), metrics.clone());
        let shared = Arc::new(Shared {
            peppers,
            limits: Limits::new(threads, config.queue, config.queue_share),
            config,
            context,
            metrics,
            threads,
            queue: Mutex::default(),
            arrived: Condvar::new(),
            closed: AtomicBool::new(false),
            nanos_per_unit: AtomicU64::new(GUESSED_NANOS),
            dearest: AtomicU32::new(0),
        });
        for number in 0..threads {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("hashing-{number}"));
            thread.spawn(move || shared.work()).map_err(Fault::internal)?;
        }
        Ok(Self { inner: Arc::new(Inner { shared, charges }) })
    }

    /// What calls are charged by before they can have anything done here.
    pub fn charges(&self) -> &Charges {
        &self.inner.charges
    }

    /// A permit for work of so many units.
    fn admit(&self, charge: &Arc<Charge>, units: u64) -> Result<Permit> {
        let shared = &self.inner.shared;
        let mut queue = shared.queue();
        let wait = shared.wait(&queue, charge, units);
        if !queue.has_place(charge.account(), shared.limits) || wait > shared.config.max_wait {
            drop(queue);
            return Err(Fault::new(Reason::Overloaded, "More logins are waiting than can be done in reasonable time.")
                .retry_after(wait.max(Duration::from_secs(1))));
        }
        queue.admit(charge.account(), units);
        Ok(Permit { shared: Arc::clone(shared), charge: Arc::clone(charge), units })
    }

    /// A permit for comparing a password, whose refusal takes as much as the most expensive hash in use.
    ///
    /// # Errors
    /// `OVERLOADED` when that would mean waiting too long, or when the charged account has its share already.
    pub fn admit_comparison(&self, charge: &Arc<Charge>) -> Result<Permit> {
        let cost = self.cost().max(self.inner.shared.dearest.load(Ordering::Relaxed));
        self.admit(charge, units(cost.min(MAX_COST)))
    }

    /// Notes the highest cost that is in use now.
    pub(crate) fn dearest(&self, cost: u32) {
        self.inner.shared.dearest.store(cost.min(MAX_COST), Ordering::Relaxed);
    }

    /// The cost of new hashes.
    pub fn cost(&self) -> u32 {
        self.inner.shared.config.cost
    }

    pub(crate) fn peppers(&self) -> &Peppers {
        &self.inner.shared.peppers
    }

    /// Judges a new password by the policy and hashes it at the configured cost. What depends on the password's text runs
    /// on the threads, once it was admitted. `about`: what others know of the user, such as address, name and tenant.
    ///
    /// # Errors
    /// `INVALID_FIELD` for `field` when the policy refuses the password, with what to do; `OVERLOADED`.
    pub async fn new_password(
        &self,
        charge: &Arc<Charge>,
        policy: &Policy,
        field: &'static str,
        password: &Zeroizing<String>,
        about: &[&str],
    ) -> Result<StoredHash> {
        policy.check_form(field, password)?;
        let permit = self.admit(charge, units(self.cost()) + strength::UNITS)?;
        let (hash, cost, pepper_id) = self.to_hash(password)?;
        let (about, min_strength) = (strength::words(about), policy.min_strength());
        match permit.run(Work::Set { password: password.clone(), about, min_strength, hash }).await? {
            Done::Hashed(hash) => Ok(StoredHash { hash, cost, pepper_id }),
            Done::TooWeak => Err(Policy::too_weak(field)),
            Done::Verified(_) => Err(Fault::internal("a hash was answered with a verdict")),
        }
    }

    /// Hashes a password that was in use before anew.
    pub(crate) async fn rehash(&self, charge: &Arc<Charge>, password: &Zeroizing<String>) -> Result<StoredHash> {
        let permit = self.admit(charge, units(self.cost()))?;
        let (hash, cost, pepper_id) = self.to_hash(password)?;
        match permit.run(Work::Hash(hash)).await? {
            Done::Hashed(hash) => Ok(StoredHash { hash, cost, pepper_id }),
            Done::Verified(_) | Done::TooWeak => Err(Fault::internal("a hash was answered with a verdict")),
        }
    }

    fn to_hash(&self, password: &Zeroizing<String>) -> Result<(ToHash, i16, Option<i16>)> {
        let (cost, pepper_id) = (self.cost(), self.peppers().current());
        let mixed = self.peppers().mix(pepper_id, password);
        let mixed = mixed.ok_or_else(|| Fault::internal("the current pepper is not there"))?;
        let salt = self.inner.shared.context.entropy.array();
        Ok((ToHash { mixed, cost, salt }, i16::try_from(cost).unwrap_or_default(), pepper_id))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let queue = self.shared.queue();
        self.shared.closed.store(true, Ordering::Release);
        drop(queue);
        self.shared.arrived.notify_all();
    }
}

impl Permit {
    /// Whether `password` belongs to `hash`. A refusal does as much work as a hash of the cost `fill_to` takes, also
    /// without any hash; a success answers immediately.
    ///
    /// # Errors
    /// When the threads are gone.
    pub async fn verify(self, password: Zeroizing<String>, hash: Option<BcryptHash>, fill_to: u32) -> Result<bool> {
        match self.run(Work::Verify { password, hash, fill_to }).await? {
            Done::Verified(matches) => Ok(matches),
            Done::Hashed(_) | Done::TooWeak => Err(Fault::internal("a verdict was answered with a hash")),
        }
    }

    async fn run(self, work: Work) -> Result<Done> {
        let (answer, done) = oneshot::channel();
        let (shared, charge) = (Arc::clone(&self.shared), Arc::clone(&self.charge));
        shared.queue().push(charge.account(), Job { work, answer, permit: self });
        shared.metrics.hash_queue.inc();
        shared.arrived.notify_one();
        done.await.map_err(Fault::internal)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.queue().release(self.charge.account(), self.units);
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue<Job>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a new job would wait for its turn.
    fn wait(&self, queue: &Queue<Job>, charge: &Charge, units: u64) -> Duration {
        // Work in progress delays no job as long as a thread is free.
        if queue.admitted() < self.threads {
            return Duration::ZERO;
        }
        let nanos = self.nanos_per_unit.load(Ordering::Relaxed);
        Duration::from_nanos(queue.ahead_of(charge.account(), units).saturating_mul(nanos) / self.threads as u64)
    }

    fn work(&self) {
        while let Some(Job { work, answer, permit }) = self.next() {
            self.metrics.hash_queue.dec();
            // The caller may have cancelled while the job waited.
            if answer.is_closed() {
                continue;
            }
            let done = self.compute(work);
            // Given back first: a caller that has the answer finds the permit free.
            drop(permit);
            // Fails only when no caller waits any more.
            let _ = answer.send(done);
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue();
        loop {
            if let Some(job) = queue.pop() {
                return Some(job);
            }
            if self.closed.load(Ordering::Acquire) {
                return None;
            }
            queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn compute(&self, work: Work) -> Done {
        match work {
            Work::Verify { password, hash, fill_to } => {
                Done::Verified(self.measured(|| verify(password.as_bytes(), hash.as_ref(), fill_to)))
            }
            Work::Hash(hash) => Done::Hashed(self.hash(&hash)),
            Work::Set { password, about, min_strength, hash } => {
                self.metrics.strength_checks.inc();
                if strength::score(&password, &about) < min_strength {
                    return Done::TooWeak;
                }
                Done::Hashed(self.hash(&hash))
            }
        }
    }

    fn hash(&self, ToHash { mixed, cost, salt }: &ToHash) -> String {
        self.measured(|| (bcrypt_hash::hash(mixed.as_bytes(), *cost, *salt), units(*cost)))
    }

    /// Counts the units that `work` reports beside its result, and measures what one takes.
    fn measured<T>(&self, work: impl FnOnce() -> (T, u64)) -> T {
        let began = self.context.clock.stopwatch();
        let (done, units) = work();
        let took = began.elapsed();
        self.metrics.hash_units.inc_by(units);
        if let Some(nanos) = u64::try_from(took.as_nanos()).ok().and_then(|nanos| nanos.checked_div(units)) {
            let known = self.nanos_per_unit.load(Ordering::Relaxed);
            self.nanos_per_unit.store((known * 7 + nanos) / 8, Ordering::Relaxed);
        }
        done
    }
}

/// Compares, and spends on a refusal what is missing to 2^`fill_to`: 2^c + 2^c + 2^(c+1) + ... + 2^(t-1) = 2^t.
fn verify(password: &[u8], hash: Option<&BcryptHash>, fill_to: u32) -> (bool, u64) {
    let Some(hash) = hash else {
        bcrypt_hash::spend(fill_to);
        return (false, units(fill_to));
    };
    if hash.compute_and_compare(password) {
        return (true, units(hash.cost()));
    }
    for cost in hash.cost()..fill_to {
        bcrypt_hash::spend(cost);
    }
    (false, units(hash.cost().max(fill_to)))
}

fn units(cost: u32) -> u64 {
    1 << cost
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config(threads: usize, queue: usize) -> PasswordConfig {
        let passwords = Config::load(None, []).unwrap().passwords;
        PasswordConfig { cost: 4, threads, queue, max_wait: Duration::from_secs(60), ..passwords }
    }

    fn with(config: PasswordConfig) -> (Hasher, Metrics) {
        let (metrics, throttle) = (Metrics::new(), Config::load(None, []).unwrap().throttle);
        (Hasher::new(config, &throttle, Context::system(), metrics.clone()).unwrap(), metrics)
    }

    fn hasher(threads: usize, queue: usize) -> (Hasher, Metrics) {
        with(config(threads, queue))
    }

    fn charge(name: &str) -> Arc<Charge> {
        Arc::new(Charge::of(name))
    }

    fn password(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    #[test]
    fn a_refusal_does_as_much_as_the_dearest_hash_whatever_it_had_to_compare_with() {
        for cost in [None, Some(4), Some(5), Some(7)] {
            let hash = cost.map(|cost| BcryptHash::parse(&bcrypt_hash::hash(b"right", cost, [1; 16])).unwrap());
            assert_eq!(verify(b"wrong", hash.as_ref(), 7), (false, 1 << 7), "{cost:?}");
            if let Some(hash) = hash {
                assert_eq!(verify(b"right", Some(&hash), 7), (true, 1 << hash.cost()));
            }
        }
    }

    #[tokio::test]
    async fn a_full_queue_turns_away_and_says_when_to_come_back() {
        let (hasher, _) = hasher(1, 5);
        let (a, b) = (charge("a"), charge("b"));
        let held: Vec<Permit> = [&a, &a, &a, &b, &b, &b].map(|owner| hasher.admit(owner, 16).unwrap()).into();
        let refused = hasher.admit(&a, 16).err().unwrap();
        assert_eq!(refused.reason(), Reason::Overloaded);
        assert!(refused.retry_delay().is_some());
        drop(held);
        assert!(hasher.admit(&a, 16).is_ok(), "places are given back");
    }

    #[tokio::test]
    async fn a_queue_that_would_take_too_long_turns_away_although_it_is_not_full() {
        let (hasher, _) = with(PasswordConfig { max_wait: Duration::from_millis(1), ..config(1, 1000) });
        let _held = hasher.admit(&charge("a"), 1 << 14).unwrap();
        assert_eq!(hasher.admit(&charge("a"), 1 << 14).err().unwrap().reason(), Reason::Overloaded);
    }

    /// An account that came first with much makes others wait for one job of its own, not for all.
    #[tokio::test]
    async fn what_one_owner_waits_for_turns_no_other_away() {
        let (hasher, _) =
            with(PasswordConfig { max_wait: Duration::from_secs(2), queue_share: 500, ..config(1, 1000) });
        let (many, one) = (charge("a"), charge("b"));
        let mut held = Vec::new();
        while let Ok(permit) = hasher.admit(&many, 1 << 14) {
            held.push(permit);
        }
        assert!((1..500).contains(&held.len()), "the first owner is turned away for the wait");
        assert!(hasher.admit(&one, 1 << 14).is_ok());
    }

    #[tokio::test]
    async fn what_a_refusal_takes_is_what_is_counted_when_it_is_admitted() {
        let (hasher, _) = hasher(1, 1000);
        drop(hasher.admit_comparison(&charge("a")).unwrap());
        for (dearest, counted) in [(9, 9), (2, 4), (12, 12)] {
            hasher.dearest(dearest);
            let held = hasher.admit_comparison(&charge("a")).unwrap();
            assert_eq!(held.units, 1 << counted);
        }
    }

    #[tokio::test]
    async fn whoever_went_away_costs_nothing() {
        let (hasher, metrics) = hasher(1, 10);
        let charge = charge("a");
        let mut first = Box::pin(hasher.admit(&charge, 1).unwrap().verify(password("a"), None, 12));
        let mut gone = Box::pin(hasher.admit(&charge, 1).unwrap().verify(password("b"), None, 4));
        // Asked once each, so that they wait in this order.
        for waiting in [&mut first, &mut gone] {
            tokio::select! { biased; _ = waiting => unreachable!(), () = std::future::ready(()) => {} }
        }
        drop(gone);
        assert!(!first.await.unwrap());
        assert!(!hasher.admit(&charge, 1).unwrap().verify(password("c"), None, 5).await.unwrap());
        assert_eq!(metrics.hash_units.get(), (1 << 12) + (1 << 5));
        assert_eq!(hasher.inner.shared.queue().admitted(), 0);
    }

    #[tokio::test]
    async fn a_new_password_is_hashed_if_bcrypt_reads_all_of_it_and_it_is_hard_to_guess() {
        let (hasher, metrics) = hasher(1, 10);
        let policy = Policy::new(&config(1, 10)).unwrap();
        let (charge, about) = (charge("a"), ["ann@example.com"]);
        for bad in [&*"x".repeat(73), "with a \0 in it", &"é".repeat(37), "password1", "ann@example.com"] {
            let refused = hasher.new_password(&charge, &policy, "password", &password(bad), &about).await.unwrap_err();
            assert_eq!(refused.reason(), Reason::InvalidField, "{bad}");
        }
        assert_eq!(metrics.hash_units.get(), 0, "what is refused is not hashed");
        let good = password("kX9#qLwpM4!v");
        let stored = hasher.new_password(&charge, &policy, "password", &good, &about).await.unwrap();
        assert_eq!((stored.cost, stored.pepper_id), (4, None));
        assert!(BcryptHash::parse(&stored.hash).unwrap().compute_and_compare(good.as_bytes()));
    }
}
