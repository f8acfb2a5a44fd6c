//! Refreshing as a game between an owner who races themselves and whose network loses replies, and a thief who copies
//! tokens, played over two replicas with a clock that the game moves. A model that knows everything decides what must
//! hold.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sidle::context::Context;
use uuid::Uuid;

use super::{is_good, refresh};
use crate::look::reason;
use crate::support::{Setup, TestServer, until};

/// One move.
#[derive(Clone, Debug)]
enum Move {
    /// The owner refreshes with the newest token that reached them.
    Refresh {
        replica: usize,
        /// Whether the call carries an id, so that it can be repeated.
        named: bool,
        /// Whether the reply gets lost, and how often the call is made at the same time.
        lost: bool,
        at_once: usize,
    },
    /// The owner repeats the last call as it was made.
    Repeat { replica: usize },
    /// The thief uses an earlier token: its index among those ever issued.
    Steal { replica: usize, token: usize, with_id_of_owner: bool },
    /// Time passes. Sums of these stay well below 40 s and 60 s, so that a slow machine does not decide the game.
    Wait { seconds: u64 },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let replica = 0..2usize;
    let one = prop_oneof![
        6 => (replica.clone(), any::<bool>(), prop::bool::weighted(0.4), prop_oneof![4 => Just(1usize), 1 => 2..5usize])
            .prop_map(|(replica, named, lost, at_once)| Move::Refresh { replica, named, lost, at_once }),
        4 => replica.clone().prop_map(|replica| Move::Repeat { replica }),
        1 => (replica, 0..12usize, any::<bool>())
            .prop_map(|(replica, token, with_id_of_owner)| Move::Steal { replica, token, with_id_of_owner }),
        2 => prop_oneof![2 => Just(15u64), 1 => Just(61), 1 => Just(3600)]
            .prop_map(|seconds| Move::Wait { seconds }),
    ];
    prop::collection::vec(one, 1..12)
}

/// A token that was exchanged: by which call, for what, and when.
struct Used {
    id: Option<Uuid>,
    successor: String,
    at: u64,
}

/// Until so many seconds after the first exchange another one counts as the owner's own; longer than by default, so
/// that time that passes by itself decides nothing.
const LEEWAY: u64 = 40;

/// What the server must know and what the owner holds.
#[derive(Default)]
struct Model {
    now: u64,
    /// Every token that was ever issued, whether or not the reply arrived.
    handed_out: Vec<String>,
    used: HashMap<String, Used>,
    ended: bool,
    /// The newest token that the owner has.
    held: String,
    last: Option<(String, Option<Uuid>)>,
}

/// What a call must lead to.
#[derive(Debug, PartialEq)]
enum Must {
    /// A new successor.
    Next,
    /// This successor again.
    Again(String),
    /// A refusal that ends the family.
    Refuse,
}

impl Model {
    fn ought(&self, token: &str, id: Option<Uuid>) -> Must {
        match self.used.get(token) {
            _ if self.ended => Must::Refuse,
            None => Must::Next,
            // The owner's own race, or a repeat.
            Some(used)
                if !self.used.contains_key(&used.successor)
                    && (self.now < used.at + LEEWAY || (id.is_some() && used.id == id && self.now < used.at + 60)) =>
            {
                Must::Again(used.successor.clone())
            }
            Some(_) => Must::Refuse,
        }
    }
}

struct Game<'a> {
    servers: &'a [TestServer; 2],
    user: Uuid,
    model: Model,
    ids: u128,
}

impl Game<'_> {
    /// Makes a call, compares the answer with the model, and returns the successor.
    async fn call(&mut self, replica: usize, token: &str, id: Option<Uuid>) -> Option<String> {
        let ought = self.model.ought(token, id);
        let answer = refresh(&self.servers[replica], token, id).await;
        let pair = answer.map(|answer| answer.tokens.unwrap());
        match (&ought, pair) {
            (Must::Refuse, Err(refused)) => {
                assert_eq!(reason(&refused), "INVALID_REFRESH_TOKEN");
                self.model.ended = true;
                None
            }
            (Must::Next, Ok(pair)) => {
                assert!(!self.model.handed_out.contains(&pair.refresh_token), "a new one");
                self.note(token, id, &pair.refresh_token);
                Some(pair.refresh_token)
            }
            (Must::Again(successor), Ok(pair)) => {
                assert_eq!(&pair.refresh_token, successor, "the same one again");
                Some(pair.refresh_token)
            }
            (ought, got) => panic!("must {ought:?}, got {got:?}"),
        }
    }

    fn note(&mut self, token: &str, id: Option<Uuid>, successor: &str) {
        let used = Used { id, successor: successor.to_owned(), at: self.model.now };
        self.model.used.insert(token.to_owned(), used);
        self.model.handed_out.push(successor.to_owned());
    }

    /// The same call several times concurrently, on both replicas.
    async fn storm(&mut self, token: &str, id: Option<Uuid>, times: usize) -> Option<String> {
        let ought = self.model.ought(token, id);
        let calls = (0..times).map(|n| refresh(&self.servers[n % 2], token, id));
        let answers = join_all(calls).await;
        let mut tokens: Vec<String> =
            answers.iter().flatten().map(|answer| answer.tokens.as_ref().unwrap().refresh_token.clone()).collect();
        tokens.dedup();
        let got = (tokens.len(), answers.iter().filter(|a| a.is_ok()).count());
        match ought {
            Must::Next => {
                assert_eq!(got, (1, times), "one branch for all");
                self.note(token, id, &tokens[0]);
                Some(tokens[0].clone())
            }
            Must::Again(successor) => {
                assert_eq!(got, (1, times), "and again");
                assert_eq!(tokens[0], successor);
                Some(successor)
            }
            Must::Refuse => {
                assert!(tokens.is_empty());
                self.model.ended = true;
                None
            }
        }
    }

    async fn play(&mut self, step: &Move) {
        match *step {
            Move::Refresh { replica, named, lost, at_once } => {
                self.ids += 1;
                let id = named.then(|| Uuid::from_u128(self.ids));
                let token = self.model.held.clone();
                self.model.last = Some((token.clone(), id));
                let got = match at_once {
                    1 => self.call(replica, &token, id).await,
                    times => self.storm(&token, id, times).await,
                };
                if let Some(next) = got.filter(|_| !lost) {
                    self.model.held = next;
                }
            }
            Move::Repeat { replica } => {
                let Some((token, id)) = self.model.last.clone() else { return };
                if let Some(next) = self.call(replica, &token, id).await {
                    self.model.held = next;
                }
            }
            Move::Steal { replica, token, with_id_of_owner } => {
                let token = self.model.handed_out[token % self.model.handed_out.len()].clone();
                let known = self.model.used.get(&token).and_then(|used| used.id);
                let id = if with_id_of_owner { known } else { Some(Uuid::from_u128(u128::MAX)) };
                // What the thief gets, the owner does not.
                self.call(replica, &token, id).await;
            }
            Move::Wait { seconds } => {
                for server in self.servers {
                    server.context.clock.advance(Duration::from_secs(seconds));
                }
                self.model.now += seconds;
            }
        }
        self.check().await;
    }

    async fn check(&self) {
        let count = "SELECT count(*) FROM refresh_tokens t JOIN sessions s USING (session_id)
                     WHERE t.used_at IS NULL AND t.revoked_at IS NULL AND s.status = 'active' AND s.user_id = $1";
        let live: i64 = sqlx::query_scalar(count).bind(self.user).fetch_one(self.servers[0].sql()).await.unwrap();
        assert_eq!(live, i64::from(!self.model.ended), "one live branch, or none after theft");
    }
}

/// A game of one user; the servers continue with the next.
async fn play(moves: &[Move], servers: &[TestServer; 2], tenant: Uuid, game: u128) {
    let [one, two] = servers;
    let email = format!("player{game}@example.com");
    let user = one.user(tenant, &email, "user").await;
    let tokens = one.sign_in(&email).await;
    let held = tokens.refresh_token.clone();
    let model = Model { handed_out: vec![held.clone()], held, ..Model::default() };
    let mut game = Game { servers, user, model, ids: game << 64 };
    for step in moves {
        game.play(step).await;
    }
    let held = &game.model.held;
    if game.model.ended {
        // Refused immediately where it was detected, and on the other replica as soon as the log has reported it.
        until("its access tokens end too", async || {
            !(is_good(one, &tokens.access_token).await || is_good(two, &tokens.access_token).await)
        })
        .await;
    } else if game.model.ought(held, None) == Must::Next {
        refresh(two, held, None).await.expect("no refresh that was acknowledged is lost");
    }
}

#[test]
fn whatever_is_lost_repeated_or_stolen_one_branch_lives_or_none() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (servers, tenant) = runtime.block_on(async {
        let setup = Setup::new().await.with("TOKENS__REFRESH_LEEWAY", &format!("{LEEWAY}s"));
        let servers = [setup.start_with(Context::system()).await, setup.start_with(Context::system()).await];
        let tenant = servers[0].tenant("games").await;
        (servers, tenant)
    });
    let games = std::cell::Cell::new(0u128);
    let config = Config { cases: 96, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let played = TestRunner::new(config).run(&moves(), |moves| {
        games.set(games.get() + 1);
        runtime.block_on(play(&moves, &servers, tenant, games.get()));
        Ok(())
    });
    played.unwrap_or_else(|failure| panic!("{failure}"));
}
