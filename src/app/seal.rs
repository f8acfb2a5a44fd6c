//! Whether the configured sealing keys are those of the database. A service that started with others would make signing keys
//! of its own, lose the personal data in the audit log, and seal new values that the right keys do not open.

use crate::config::SealConfig;
use crate::db::Db;
use crate::fault;
use crate::seal::{Keyring, Sealed};
use crate::startup::{Result, StartFailure};
use crate::{audit, token};

/// Tries the keys on what was sealed before.
///
/// # Errors
/// When something was sealed under another key.
pub async fn check(db: &Db, keyring: &Keyring, config: &SealConfig) -> Result<()> {
    let found = sealed(db).await?;
    match verdict(keyring, &found) {
        None => Ok(()),
        Some(cause) => {
            let setting = if config.keys.is_empty() { "seal.key_file" } else { "seal.keys" };
            let failure = StartFailure::new("open what is sealed in this database", cause).setting(setting);
            Err(failure.remedy(
                "Give the keys that belong to this database; after a change of keys, the earlier ones stay behind the new \
                 one. A new key does not help: what is sealed is lost without the old one.",
            ))
        }
    }
}

/// What lies sealed in the database.
struct Found {
    signing_keys: Vec<Sealed>,
    subject_keys: Vec<Sealed>,
    /// Looked at only where there is nothing else yet.
    waiting: Vec<Sealed>,
}

async fn sealed(db: &Db) -> fault::Result<Found> {
    let (signing_keys, subject_keys) = (token::sealed(db).await?, audit::sealed_keys(db).await?);
    let is_new = signing_keys.is_empty() && subject_keys.is_empty();
    let waiting = if is_new { audit::sealed_waiting(db).await? } else { Vec::new() };
    Ok(Found { signing_keys, subject_keys, waiting })
}

/// What is wrong, if anything.
fn verdict(keyring: &Keyring, found: &Found) -> Option<String> {
    let own = keyring.ids();
    let all = || found.signing_keys.iter().chain(&found.subject_keys).chain(&found.waiting);
    let foreign = all().filter_map(Sealed::key_id).find(|id| !own.contains(id));
    if let Some(id) = foreign {
        let own = own.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        return Some(format!("it was sealed under the key with the number {id}, and only {own} is given"));
    }
    // One damaged value among the people's does not show that the key is wrong, while others open.
    let tried =
        if found.signing_keys.is_empty() { all().collect() } else { found.signing_keys.iter().collect::<Vec<_>>() };
    let shut = tried.into_iter().find(|sealed| keyring.open(sealed.context, &sealed.value).is_err())?;
    let (id, table) = (shut.key_id().unwrap_or_default(), shut.context.table);
    Some(format!("a value in {table} was sealed under another key with the number {id}, or is damaged"))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use zeroize::Zeroizing;

    use super::*;
    use crate::context::Entropy;
    use crate::seal::SealContext;

    fn ring(keys: &[(u32, u8)]) -> Keyring {
        Keyring::new(keys.iter().map(|(id, byte)| (*id, Zeroizing::new([*byte; 32])))).unwrap()
    }

    fn sealed_by(keyring: &Keyring) -> Vec<Sealed> {
        let context = SealContext { table: "signing_keys", column: "private_key", row: Uuid::from_u128(1) };
        vec![Sealed { context, value: keyring.seal(&Entropy::system(), context, b"secret") }]
    }

    fn found(signing: &Keyring, subjects: &Keyring) -> Found {
        Found { signing_keys: sealed_by(signing), subject_keys: sealed_by(subjects), waiting: Vec::new() }
    }

    #[test]
    fn only_the_keys_of_the_database_are_taken() {
        let (one, other, second) = (ring(&[(1, 7)]), ring(&[(1, 8)]), ring(&[(2, 9)]));
        let rotated = ring(&[(2, 9), (1, 7)]);
        assert_eq!(verdict(&one, &found(&one, &one)), None);
        assert_eq!(verdict(&rotated, &found(&second, &one)), None);
        assert!(verdict(&other, &found(&one, &one)).unwrap().contains("another key with the number 1"));
        // The signing keys were replaced since, and the old key was thrown away.
        assert!(verdict(&second, &found(&second, &one)).unwrap().contains("number 1, and only 2"));
        let damaged = Found { subject_keys: sealed_by(&other), ..found(&one, &one) };
        assert_eq!(verdict(&one, &damaged), None);
    }

    #[test]
    fn a_database_that_no_service_has_run_on_yet_is_tried_too() {
        let (one, other) = (ring(&[(1, 7)]), ring(&[(1, 8)]));
        let none = || Found { signing_keys: Vec::new(), subject_keys: Vec::new(), waiting: Vec::new() };
        assert_eq!(verdict(&one, &none()), None);
        assert!(verdict(&other, &Found { waiting: sealed_by(&one), ..none() }).is_some());
        assert!(verdict(&other, &Found { subject_keys: sealed_by(&one), ..none() }).is_some());
    }
}
