//! What tests stand on: a server with a database of its own, clients for its services, a Kanidm.

pub mod cluster;
pub mod process;
pub mod proxy;
pub mod server;

use std::io::Write as _;
use std::sync::OnceLock;

pub use self::server::{ADMIN_PASSWORD, Client, Setup, TestServer};
use sidle_dev::kanidm::Kanidm;
use sidle_dev::postgres::Database;

/// Tests that need the clock or the faults of dev Kanidm, which a full Kanidm does not have. With a full Kanidm they are
/// skipped, by these names.
pub const NEEDS_DEV_KANIDM: &[&str] = &[
    "a_commit_whose_answer_got_lost_is_seen_at_the_next_login",
    "a_full_disk_at_kanidm_fails_nobody_and_the_job_goes_on_by_itself",
    "a_kanidm_slower_than_the_time_limit_gets_smaller_batches_until_it_comes_through",
    "a_key_that_kanidm_revoked_is_trusted_no_longer",
    "a_link_made_while_the_invitation_died_is_handed_to_nobody",
    "a_link_whose_answer_got_lost_is_not_joined_by_another",
    "a_login_invites_without_asking_kanidm",
    "a_lost_reply_to_a_batch_with_guilty_entries_still_ends_right",
    "a_renewal_whose_answer_got_lost_at_kanidm_asks_for_a_new_login_at_worst",
    "a_silent_stream_shows_that_it_lives",
    "a_token_of_kanidms_own_with_forged_key_ids_does_not_make_us_hammer_kanidm",
    "after_failures_in_a_row_kanidm_is_not_asked_and_callers_do_not_wait",
    "an_outage_ends_no_session_and_what_was_due_is_asked_about_after_it",
    "an_outage_stops_the_logins_through_kanidm_and_no_other",
    "answers_that_nobody_understands_end_after_a_bounded_number_of_tries",
    "checks_and_refreshes_of_one_session_never_cross",
    "clocks_may_differ_by_what_is_configured",
    "discovery_and_keys_are_read_again_without_a_login",
    "discovery_is_not_read_for_every_login",
    "every_condition_of_the_server_is_told_and_waited_for",
    "expired_tokens_of_kanidms_are_renewed_at_the_refresh",
    "kanidms_keys_are_not_fetched_for_every_login",
    "keys_that_could_not_be_confirmed_for_long_vouch_for_nobody",
    "killed_while_kanidm_works_nobody_is_made_twice",
    "logins_at_once_on_two_replicas_carry_over_once",
    "lost_replies_give_nobody_two_persons_or_none",
    "one_call_finds_out_that_kanidm_is_back",
    "one_of_a_hundred_without_a_sensible_answer_does_not_hold_up_the_others",
    "only_so_many_are_under_way_at_once",
    "planning_with_kanidm_down_says_so",
    "what_changes_while_kanidm_is_asked_stops_it_before_the_last_step",
    "where_kanidm_asks_for_a_second_factor_nothing_is_set_and_it_is_not_asked_at_every_login",
    "while_kanidm_holds_every_call_nobody_with_a_password_waits_for_it",
    "who_is_demoted_while_the_group_is_joined_gets_nothing_from_the_group",
    "who_is_demoted_while_the_person_is_made_is_not_put_into_the_group_of_administrators",
    "who_lost_the_lease_writes_no_more",
    "with_kanidm_down_nothing_is_spent_and_nothing_made",
    "with_kanidm_down_or_slow_the_login_answers_and_the_password_is_dropped",
    "with_kanidm_down_the_job_waits_and_goes_on_by_itself",
];

/// A Kanidm for one test; none when the test stands in [`NEEDS_DEV_KANIDM`] and a full Kanidm is given.
pub async fn kanidm(test: &str) -> Option<Kanidm> {
    let full = std::env::var("SIDLE_TEST_KANIDM_URL").is_ok();
    if full && NEEDS_DEV_KANIDM.contains(&test) {
        // Past the harness, which keeps what passing tests print to itself.
        let _ = writeln!(std::io::stderr(), "skipped {test}: it needs the clock or the faults of dev Kanidm");
        return None;
    }
    Some(Kanidm::start().await.expect("a Kanidm starts"))
}

/// The template that every test's database is copied from: the schema, applied once a run.
pub async fn template() -> &'static str {
    static TEMPLATE: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();
    TEMPLATE
        .get_or_init(|| async {
            Database::sweep("sidle_test").await.expect("the private Postgres answers");
            let database = Database::create("sidle_test", None).await.expect("a template");
            let config = sidle::config::Config::load(
                None,
                [
                    ("SIDLE_SERVER__PLAINTEXT".to_owned(), "true".to_owned()),
                    ("SIDLE_DATABASE__OWNER_URL".to_owned(), database.owner_url.clone()),
                ],
            );
            let clock = sidle::context::Clock::system();
            let mut schema = sidle::schema::Schema::connect(&config.unwrap().database, clock).await.unwrap();
            schema.up(false).await.expect("the schema applies");
            let name = database.name.clone();
            // It must outlive the test that happened to come first; the next run sweeps it.
            std::mem::forget(database);
            name
        })
        .await
}

/// A database with the schema, for one test.
pub async fn database() -> Database {
    Database::create("sidle_test", Some(template().await)).await.expect("a copy of the template")
}

/// Asks `whether` again and again until it gives something, and gives that.
///
/// # Panics
/// When it has not within a minute: says what was waited for.
pub async fn eventually<T>(what: &str, mut whether: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            if let Some(value) = whether().await {
                return value;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let limit = std::time::Duration::from_secs(60);
    tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

/// A bcrypt hash of `password` at the lowest cost, made once for each password that tests use.
pub fn cheap_hash(password: &str) -> String {
    static HASHES: OnceLock<std::sync::Mutex<std::collections::HashMap<String, String>>> = OnceLock::new();
    let hashes = HASHES.get_or_init(Default::default);
    let mut hashes = hashes.lock().unwrap();
    hashes.entry(password.to_owned()).or_insert_with(|| bcrypt::hash(password, 4).unwrap()).clone()
}
