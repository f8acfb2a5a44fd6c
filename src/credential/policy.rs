//! What a new password must be: long enough, hard to guess for an attacker who knows the user, on no list of breached
//! ones, and such that bcrypt reads all of it.

use std::io::BufReader;
use std::sync::Arc;

use super::bcrypt_hash::MAX_PASSWORD;
use super::breached::Breached;
use crate::config::PasswordConfig;
use crate::fault::{Fault, Result};

/// The rules for new passwords. Clones share one list of breached ones.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Arc<Rules>,
}

#[derive(Debug)]
struct Rules {
    min_length: usize,
    min_strength: u8,
    peppered: bool,
    breached: Option<Breached>,
}

impl Policy {
    /// The configured rules, with the list of breached passwords read.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn new(config: &PasswordConfig) -> Result<Self> {
        let file = config.open_breached().map_err(Fault::internal)?;
        let breached = file.map(|file| Breached::read(BufReader::new(file))).transpose().map_err(|error| {
            Fault::internal(format!("cannot read the file of passwords.breached_file to its end: {error}"))
        })?;
        if let Some(breached) = &breached {
            tracing::info!(event = "breached_passwords_loaded", passwords = breached.len());
        }
        let peppered = config.pepper_new_hashes && !config.peppers().map_err(Fault::internal)?.is_empty();
        let (min_length, min_strength) = (config.min_length, config.min_strength);
        Ok(Self { rules: Arc::new(Rules { min_length, min_strength, peppered, breached }) })
    }

    /// Whether `password` may be set as far as that can be decided immediately: length, characters, list of breached
    /// ones. Judging how hard it is to guess takes long, and is the hashing threads' work.
    ///
    /// # Errors
    /// `INVALID_FIELD` for `field`, with what to do.
    pub(crate) fn check_form(&self, field: &'static str, password: &str) -> Result<()> {
        let rules = &self.rules;
        if password.chars().count() < rules.min_length {
            return Err(Fault::field(field, format!("must be at least {} characters long", rules.min_length)));
        }
        check_storable(field, password, rules.peppered)?;
        if rules.breached.as_ref().is_some_and(|list| list.contains(password)) {
            return Err(Fault::field(
                field,
                "is on a list of passwords that others know: choose one used nowhere else",
            ));
        }
        Ok(())
    }

    /// Least strength of a new password, 0 to 4.
    pub(crate) fn min_strength(&self) -> u8 {
        self.rules.min_strength
    }

    /// The refusal of a password that is not as strong as that.
    pub(super) fn too_weak(field: &'static str) -> Fault {
        Fault::field(
            field,
            "is too easily guessed: make it longer, of several words that have nothing to do with the user",
        )
    }
}

/// Whether a hash of `password` would be of all of it.
pub(crate) fn check_storable(field: &'static str, password: &str, peppered: bool) -> Result<()> {
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
    use crate::credential::strength;
    use crate::fault::Reason;

    fn policy(change: impl FnOnce(&mut PasswordConfig)) -> Policy {
        let mut config = Config::load(None, []).unwrap().passwords;
        change(&mut config);
        Policy::new(&config).unwrap()
    }

    fn objection(policy: &Policy, password: &str, about: &[&str]) -> Option<String> {
        let is_weak = || strength::score(password, &strength::words(about)) < policy.min_strength();
        let weak = || if is_weak() { Err(Policy::too_weak("new_password")) } else { Ok(()) };
        let fault = policy.check_form("new_password", password).and_then(|()| weak()).err()?;
        assert_eq!(fault.reason(), Reason::InvalidField);
        Some(format!("{:?}", fault.fields()))
    }

    #[test]
    fn a_password_is_refused_by_name_and_with_a_remedy() {
        let policy = policy(|_| {});
        for (bad, why) in [
            ("kX9#qLw", "at least 8 characters"),
            ("password1", "too easily guessed"),
            ("qwertyuiop", "too easily guessed"),
            (&*"vT7$mQzR".repeat(10), "at most 72 bytes"),
            ("kX9#qLw\0pM4!", "NUL"),
        ] {
            let objection = objection(&policy, bad, &[]).unwrap();
            assert!(objection.contains("new_password") && objection.contains(why), "{bad:?}: {objection}");
        }
        assert_eq!(objection(&policy, "kX9#qLwpM4!v", &[]), None);
    }

    #[test]
    fn the_users_own_words_make_a_password_weak() {
        let policy = policy(|config| config.min_strength = 3);
        let password = "zebralution.hk";
        assert_eq!(objection(&policy, password, &[]), None);
        for about in ["hk@zebralution.example", "Zebralution", "mail: zebralution!"] {
            assert!(objection(&policy, password, &[about]).is_some(), "{about}");
        }
    }

    #[test]
    fn the_rules_are_those_configured() {
        let short = policy(|config| (config.min_length, config.min_strength) = (4, 0));
        assert_eq!(objection(&short, "1234", &[]), None);
        assert!(objection(&short, "123", &[]).unwrap().contains("at least 4"));
        let key = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [7; 32]);
        let peppered = policy(|config| config.peppers = format!("1:{key}").into());
        assert_eq!(objection(&peppered, &"vT7$mQzR".repeat(10), &[]), None, "a pepper takes all of it");
        assert!(objection(&peppered, &"vT7$mQzR".repeat(200), &[]).unwrap().contains("at most 1024"));
    }

    #[test]
    fn a_list_that_cannot_be_read_is_named() {
        let mut config = Config::load(None, []).unwrap().passwords;
        config.breached_file = Some("/nowhere/breached.txt".into());
        let fault = Policy::new(&config).unwrap_err();
        let cause = fault.cause().unwrap().to_string();
        assert!(cause.contains("passwords.breached_file") && cause.contains("/nowhere/breached.txt"), "{cause}");
    }
}
