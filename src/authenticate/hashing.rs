//! Threads that hash, and nothing else does. There are as many as cores, and a line before them that is only as long as
//! can be worked off in the configured time: whoever would have to wait longer is turned away before anything is done.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::bcrypt_hash::{self, BcryptHash, MAX_COST, MAX_PASSWORD};
use super::pepper::Peppers;
use crate::config::PasswordConfig;
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
}

struct Shared {
    config: PasswordConfig,
    context: Context,
    metrics: Metrics,
    threads: usize,
    peppers: Peppers,
    line: Mutex<Line>,
    arrived: Condvar,
    admitted: AtomicUsize,
    admitted_units: AtomicU64,
    nanos_per_unit: AtomicU64,
    /// The highest cost in use when that was looked at last, which a refusal is filled up to.
    dearest: AtomicU32,
}

#[derive(Default)]
struct Line {
    jobs: VecDeque<Job>,
    closed: bool,
}

struct Job {
    work: Work,
    answer: oneshot::Sender<Done>,
}

enum Work {
    /// Compares, and when that fails goes on until as much was done as for a hash of this cost.
    Verify {
        password: Zeroizing<String>,
        hash: Option<BcryptHash>,
        fill_to: u32,
    },
    Hash {
        password: Zeroizing<String>,
        cost: u32,
        salt: [u8; 16],
    },
}

enum Done {
    Verified(bool),
    Hashed(String),
}

/// A place in the line.
pub struct Ticket {
    shared: Arc<Shared>,
    units: u64,
}

/// A new hash, as the columns of `users` hold it.
#[derive(Clone, Debug)]
pub struct StoredHash {
    /// The hash.
    pub hash: String,
    /// Its cost.
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
    pub fn new(config: PasswordConfig, context: Context, metrics: Metrics) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if config.threads == 0 { cores } else { config.threads };
        let peppers = Peppers::new(config.peppers().map_err(Fault::internal)?, config.pepper_new_hashes);
        let shared = Arc::new(Shared {
            peppers,
            config,
            context,
            metrics,
            threads,
            line: Mutex::default(),
            arrived: Condvar::new(),
            admitted: AtomicUsize::new(0),
            admitted_units: AtomicU64::new(0),
            nanos_per_unit: AtomicU64::new(GUESSED_NANOS),
            dearest: AtomicU32::new(0),
        });
        for number in 0..threads {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("hashing-{number}"));
            thread.spawn(move || shared.work()).map_err(Fault::internal)?;
        }
        Ok(Self { inner: Arc::new(Inner { shared }) })
    }

    /// A place in the line for work of up to this cost.
    ///
    /// # Errors
    /// `OVERLOADED` when that would mean waiting too long.
    pub fn admit(&self, cost: u32) -> Result<Ticket> {
        let shared = &self.inner.shared;
        let wait = shared.wait();
        let limit = shared.threads + shared.config.queue;
        let is_full = shared.admitted.fetch_add(1, Ordering::AcqRel) >= limit || wait > shared.config.max_wait;
        let units = units(cost.min(MAX_COST));
        shared.admitted_units.fetch_add(units, Ordering::AcqRel);
        // Gives the place back when it is dropped, here as well.
        let ticket = Ticket { shared: Arc::clone(shared), units };
        if is_full {
            return Err(Fault::new(Reason::Overloaded, "More logins are waiting than can be done in reasonable time.")
                .retry_after(wait.max(Duration::from_secs(1))));
        }
        Ok(ticket)
    }

    /// A place in the line for comparing a password, whose refusal takes as much as the dearest hash in use.
    ///
    /// # Errors
    /// `OVERLOADED` when that would mean waiting too long.
    pub fn admit_comparison(&self) -> Result<Ticket> {
        self.admit(self.cost().max(self.inner.shared.dearest.load(Ordering::Relaxed)))
    }

    /// Notes the highest cost that is in use now.
    pub(super) fn dearest(&self, cost: u32) {
        self.inner.shared.dearest.store(cost.min(MAX_COST), Ordering::Relaxed);
    }

    /// The cost of new hashes.
    pub fn cost(&self) -> u32 {
        self.inner.shared.config.cost
    }

    /// The peppers.
    pub(super) fn peppers(&self) -> &Peppers {
        &self.inner.shared.peppers
    }

    /// Hashes a new password, on the threads, at the configured cost. That it obeys the policy is for the caller to check.
    ///
    /// # Errors
    /// `INVALID_FIELD` for `field` when bcrypt would not read all of the password; `OVERLOADED`.
    pub async fn hash(&self, field: &'static str, password: &Zeroizing<String>) -> Result<StoredHash> {
        check_storable(field, password, self.peppers().current().is_some())?;
        self.rehash(password).await
    }

    /// Hashes a password that was in use before anew.
    pub(super) async fn rehash(&self, password: &Zeroizing<String>) -> Result<StoredHash> {
        let (cost, pepper_id) = (self.cost(), self.peppers().current());
        let mixed = self.peppers().mix(pepper_id, password);
        let password = mixed.ok_or_else(|| Fault::internal("the current pepper is not there"))?;
        let salt = self.inner.shared.context.entropy.array();
        match self.admit(cost)?.run(Work::Hash { password, cost, salt }).await? {
            Done::Hashed(hash) => Ok(StoredHash { hash, cost: i16::try_from(cost).unwrap_or_default(), pepper_id }),
            Done::Verified(_) => Err(Fault::internal("a hash was answered with a verdict")),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.line().closed = true;
        self.shared.arrived.notify_all();
    }
}

impl Ticket {
    /// Whether `password` belongs to `hash`. A refusal does as much work as a hash of the cost `fill_to` takes, also
    /// without any hash; a success answers at once.
    ///
    /// # Errors
    /// When the threads are gone.
    pub async fn verify(self, password: Zeroizing<String>, hash: Option<BcryptHash>, fill_to: u32) -> Result<bool> {
        match self.run(Work::Verify { password, hash, fill_to }).await? {
            Done::Verified(matches) => Ok(matches),
            Done::Hashed(_) => Err(Fault::internal("a verdict was answered with a hash")),
        }
    }

    async fn run(self, work: Work) -> Result<Done> {
        let (answer, done) = oneshot::channel();
        self.shared.line().jobs.push_back(Job { work, answer });
        self.shared.metrics.hash_queue.inc();
        self.shared.arrived.notify_one();
        done.await.map_err(Fault::internal)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shared.admitted.fetch_sub(1, Ordering::AcqRel);
        self.shared.admitted_units.fetch_sub(self.units, Ordering::AcqRel);
    }
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long what was admitted will take.
    fn wait(&self) -> Duration {
        let units = self.admitted_units.load(Ordering::Acquire);
        let nanos = self.nanos_per_unit.load(Ordering::Relaxed);
        let ahead = units.saturating_mul(nanos) / self.threads as u64;
        // What is at work already does not make anybody wait as long as a free thread is there.
        let busy = self.admitted.load(Ordering::Acquire) >= self.threads;
        if busy { Duration::from_nanos(ahead) } else { Duration::ZERO }
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            self.metrics.hash_queue.dec();
            // Whoever asked may have gone while the job waited.
            if job.answer.is_closed() {
                continue;
            }
            let (done, units, took) = self.compute(job.work);
            self.metrics.hash_units.inc_by(units);
            if let Some(nanos) = u64::try_from(took.as_nanos()).ok().and_then(|nanos| nanos.checked_div(units)) {
                let known = self.nanos_per_unit.load(Ordering::Relaxed);
                self.nanos_per_unit.store((known * 7 + nanos) / 8, Ordering::Relaxed);
            }
            // Nobody waits any more when this fails.
            let _ = job.answer.send(done);
        }
    }

    fn next(&self) -> Option<Job> {
        let mut line = self.line();
        loop {
            if let Some(job) = line.jobs.pop_front() {
                return Some(job);
            }
            if line.closed {
                return None;
            }
            line = self.arrived.wait(line).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn compute(&self, work: Work) -> (Done, u64, Duration) {
        let began = self.context.clock.instant();
        let (done, units) = match work {
            Work::Verify { password, hash, fill_to } => {
                let (matches, units) = verify(password.as_bytes(), hash.as_ref(), fill_to);
                (Done::Verified(matches), units)
            }
            Work::Hash { password, cost, salt } => {
                (Done::Hashed(bcrypt_hash::hash(password.as_bytes(), cost, salt)), units(cost))
            }
        };
        (done, units, self.context.clock.instant().saturating_duration_since(began))
    }
}

/// Compares, and spends on a refusal what is missing to 2^`fill_to`: 2^c + 2^c + 2^(c+1) + ... + 2^(t-1) = 2^t.
fn verify(password: &[u8], hash: Option<&BcryptHash>, fill_to: u32) -> (bool, u64) {
    let Some(hash) = hash else {
        bcrypt_hash::spend(fill_to);
        return (false, units(fill_to));
    };
    if hash.matches(password) {
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

/// Whether a hash of `password` would be of all of it.
pub(super) fn check_storable(field: &'static str, password: &str, peppered: bool) -> Result<()> {
    /// With a pepper there is no limit of bcrypt's; this one is that of a login.
    const LONGEST: usize = 1024;
    // Without, bcrypt would cut it, and two passwords that begin alike would be one.
    let most = if peppered { LONGEST } else { MAX_PASSWORD };
    if password.len() > most {
        Err(Fault::field(field, format!("must be at most {most} bytes long")))
    } else if password.contains('\0') {
        Err(Fault::field(field, "must not contain the character NUL"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config(threads: usize, queue: usize) -> PasswordConfig {
        let passwords = Config::load(None, []).unwrap().passwords;
        PasswordConfig { cost: 4, threads, queue, max_wait: Duration::from_secs(60), ..passwords }
    }

    fn hasher(threads: usize, queue: usize) -> (Hasher, Metrics) {
        let metrics = Metrics::new();
        (Hasher::new(config(threads, queue), Context::system(), metrics.clone()).unwrap(), metrics)
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
    async fn a_full_line_turns_away_and_says_when_to_come_back() {
        let (hasher, _) = hasher(1, 2);
        let held: Vec<Ticket> = (0..3).map(|_| hasher.admit(4).unwrap()).collect();
        let refused = hasher.admit(4).err().unwrap();
        assert_eq!(refused.reason(), Reason::Overloaded);
        assert!(refused.retry_delay().is_some());
        drop(held);
        assert!(hasher.admit(4).is_ok(), "places are given back, that of the refused as well");
    }

    #[tokio::test]
    async fn a_line_that_would_take_too_long_turns_away_although_there_is_room() {
        let metrics = Metrics::new();
        let short = PasswordConfig { max_wait: Duration::from_millis(1), ..config(1, 1000) };
        let hasher = Hasher::new(short, Context::system(), metrics).unwrap();
        let _held = hasher.admit(14).unwrap();
        assert_eq!(hasher.admit(14).err().unwrap().reason(), Reason::Overloaded);
    }

    #[tokio::test]
    async fn what_a_refusal_takes_is_what_is_counted_at_the_door() {
        let hasher = Hasher::new(config(1, 1000), Context::system(), Metrics::new()).unwrap();
        drop(hasher.admit_comparison().unwrap());
        for (dearest, counted) in [(9, 9), (2, 4), (12, 12)] {
            hasher.dearest(dearest);
            let _held = hasher.admit_comparison().unwrap();
            assert_eq!(hasher.inner.shared.admitted_units.load(Ordering::Acquire), 1 << counted);
        }
    }

    #[tokio::test]
    async fn whoever_went_away_costs_nothing() {
        let (hasher, metrics) = hasher(1, 10);
        let mut first = Box::pin(hasher.admit(12).unwrap().verify(password("a"), None, 12));
        let mut gone = Box::pin(hasher.admit(4).unwrap().verify(password("b"), None, 4));
        // Asked once each, so that they stand in the line in this order.
        for waiting in [&mut first, &mut gone] {
            tokio::select! { biased; _ = waiting => unreachable!(), () = std::future::ready(()) => {} }
        }
        drop(gone);
        assert!(!first.await.unwrap());
        assert!(!hasher.admit(4).unwrap().verify(password("c"), None, 5).await.unwrap());
        assert_eq!(metrics.hash_units.get(), (1 << 12) + (1 << 5));
    }

    #[tokio::test]
    async fn what_bcrypt_would_not_read_entirely_is_not_hashed() {
        let (hasher, _) = hasher(1, 10);
        for bad in [&*"x".repeat(73), "with a \0 in it", &"é".repeat(37)] {
            assert_eq!(
                hasher.hash("password", &password(bad)).await.unwrap_err().reason(),
                Reason::InvalidField,
                "{bad}"
            );
        }
        let stored = hasher.hash("password", &password("a good one")).await.unwrap();
        assert_eq!((stored.cost, stored.pepper_id), (4, None));
        assert!(BcryptHash::parse(&stored.hash).unwrap().matches(b"a good one"));
    }
}
