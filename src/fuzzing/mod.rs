//! A fuzz target for every parser that sees bytes from outside. Each takes any bytes at all and checks what must hold
//! for them: no panic, a bounded answer, a round trip where there is one, never a refusal that blames Sidle. Exists only
//! in builds for tests and for fuzzing; docs/fuzzing.md tells how to run them and how to add one.

mod input;
mod sealed;
#[cfg(test)]
mod seeds;
#[cfg(test)]
mod tests;

pub(crate) use self::input::Input;
use crate::fault::{Fault, Reason};
use crate::{access, audit, authenticate, cli, config, directory, kanidm, mail, migration, server, session};

/// A parser under test.
#[derive(Debug)]
pub struct Target {
    /// Name, as of its binary and of its folder of seeds.
    pub name: &'static str,
    /// What it reads, and from whom.
    pub reads: &'static str,
    /// Reads `data` and checks what must hold.
    pub run: fn(data: &[u8]),
}

macro_rules! targets {
    ($($name:ident, $run:path, $reads:literal;)*) => {
        /// Every target. Each has a binary in `fuzz/fuzz_targets/` and seeds in `fuzz/seeds/`.
        pub const TARGETS: &[Target] = &[$(Target { name: stringify!($name), reads: $reads, run: $run },)*];

        #[cfg(test)]
        mod each {
            $(#[test] fn $name() { super::tests::feed(stringify!($name)); })*
        }
    };
}

targets! {
    access_token, session::fuzzing::access_token, "access tokens: header, claims, signature";
    audit_details, audit::fuzzing::details, "details of audit events, and the bytes the log commits to";
    audit_personal, audit::fuzzing::personal, "sealed personal data of audit events, as the database gives it back";
    bcrypt_hash, authenticate::fuzzing::bcrypt_hash, "bcrypt hashes of the old application";
    breached_passwords, authenticate::fuzzing::breached_passwords, "the operator's list of breached passwords";
    calls, server::fuzzing::calls, "request messages of every RPC, through codec, layers and validation";
    certificates, server::fuzzing::certificates, "client certificates: their bytes, their names, their authorities";
    client_crate, sidle_client::fuzzing::client_crate,
        "what the client crate hears: keys, revocations, verdicts, headers";
    configuration, config::fuzzing::configuration, "configuration files and the environment";
    credentials, cli::fuzzing::credentials, "the file that keeps a user signed in, and the tokens that come into it";
    id_token, kanidm::fuzzing::id_token, "ID and access tokens of Kanidm";
    import_rows, migration::fuzzing::import_rows, "rows of an import, and the mapping of its tenants and roles";
    kanidm_answers, kanidm::fuzzing::answers, "Kanidm's answers: discovery, tokens, entries, errors";
    kanidm_keys, kanidm::fuzzing::keys, "the key set that Kanidm publishes";
    legacy_csv, migration::fuzzing::legacy_csv, "CSV files of legacy users";
    legacy_json, migration::fuzzing::legacy_json, "JSON lines files of legacy users";
    mail_messages, mail::fuzzing::mail_messages, "addresses, names and tokens that mail is made from";
    metadata, server::fuzzing::metadata, "headers of calls: authorization, addresses, ids, deadlines";
    new_passwords, authenticate::fuzzing::new_passwords, "passwords that are to be set";
    opaque_secrets, session::fuzzing::opaque_secrets, "refresh tokens, API keys and other opaque secrets";
    page_tokens, access::fuzzing::page_tokens, "page tokens and cursors";
    person_names, migration::fuzzing::person_names, "what names in Kanidm are derived from";
    refusals, cli::fuzzing::refusals, "refusals of a service, as the command line prints them";
    request_fields, access::fuzzing::request_fields, "single fields of requests: ids, addresses, times, etags, rights";
    resource_names, directory::fuzzing::resource_names, "names of users, tenants, roles and permissions";
    sealed_values, sealed::sealed_values, "sealed values, as the database gives them back";
    sealing_keys, config::fuzzing::sealing_keys, "files with sealing keys, peppers and keys of old clients";
    second_factors, authenticate::fuzzing::second_factors, "codes of applications and recovery codes, as they are typed";
    settings, directory::fuzzing::settings, "free settings of tenants and users";
    terminal, cli::fuzzing::terminal, "what the command line prints, wherever it came from";
}

/// Runs one target.
///
/// # Panics
/// When something does not hold that must, or there is no such target.
pub fn run(name: &str, data: &[u8]) {
    match TARGETS.iter().find(|target| target.name == name) {
        Some(target) => (target.run)(data),
        None => panic!("there is no fuzz target {name}"),
    }
}

/// What may be answered to whoever sent something unreadable: it is not Sidle's failure, and its text is bounded
/// whatever was sent.
pub(crate) fn check_refusal(fault: &Fault) {
    assert_ne!(fault.reason(), Reason::Internal, "what came from outside is called a failure of ours: {fault:?}");
    let facts: usize = fault.metadata().iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(fault.to_string().len() + facts < 4096, "a refusal repeats what was sent");
}
