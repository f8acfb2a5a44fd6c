//! Helpers of all tests: a server with a database of its own, clients for its services, a Kanidm.

pub mod cluster;
pub mod process;
pub mod proxy;
pub mod server;
pub mod terminal;
mod wait;

use std::sync::OnceLock;

pub use self::server::{ADMIN_PASSWORD, Client, Setup, TestServer};
pub use self::wait::{LIMIT, eventually, until, within};
use sidle_dev::kanidm::Kanidm;
use sidle_dev::postgres::Database;

/// A Kanidm for one test. Against a full Kanidm `./run test kanidm` leaves out by name those that need a dev Kanidm, so
/// that none of them passes without having run.
pub async fn kanidm() -> Kanidm {
    Kanidm::start().await.expect("a Kanidm starts")
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
            // It must outlive the test that happened to be first; the next run removes it.
            std::mem::forget(database);
            name
        })
        .await
}

/// A database with the schema, for one test.
pub async fn database() -> Database {
    Database::create("sidle_test", Some(template().await)).await.expect("a copy of the template")
}

/// A bcrypt hash of `password` at the lowest cost, made once for each password that tests use.
pub fn cheap_hash(password: &str) -> String {
    static HASHES: OnceLock<std::sync::Mutex<std::collections::HashMap<String, String>>> = OnceLock::new();
    let hashes = HASHES.get_or_init(Default::default);
    let mut hashes = hashes.lock().unwrap();
    hashes.entry(password.to_owned()).or_insert_with(|| bcrypt::hash(password, 4).unwrap()).clone()
}
