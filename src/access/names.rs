//! The keys by which e-mail addresses and usernames are found and compared. Made here and nowhere else: the database
//! compares what it is given, and folds no case by itself.

use precis_profiles::UsernameCaseMapped;
use precis_profiles::precis_core::profile::PrecisFastInvocation as _;
use unicode_normalization::UnicodeNormalization as _;
use unicode_security::confusable_detection::skeleton;
use unicode_security::mixed_script::AugmentedScriptSet;

use crate::fault::{Fault, Result};

/// The key of an e-mail address. What is accepted as one is ASCII (`input::email`).
pub fn email_key(email: &str) -> String {
    email.trim().to_ascii_lowercase()
}

/// The key of a username: compatibility forms and case folded, as RFC 8265 has it (UsernameCaseMapped), of each of the
/// words that blanks separate. None for what cannot be one: with `@`, with characters that are invisible or turn the
/// direction of text, or in letters that look like those of another script.
pub fn username_key(username: &str) -> Option<String> {
    let key = folded(username)?;
    // Keys are compared with keys that were made earlier: one that would change again is none.
    (folded(&key)? == key && !looks_alike(&key)).then_some(key)
}

/// The key of an identifier typed to sign in: of an address where it has an `@`, otherwise of a username. What can be
/// neither gets a key that no user has, so that it is treated like any unknown identifier.
pub fn identifier_key(identifier: &str) -> String {
    if identifier.contains('@') {
        return email_key(identifier);
    }
    // No key begins with a blank.
    username_key(identifier).unwrap_or_else(|| format!(" {}", identifier.trim()))
}

/// A username as it is kept, with its key.
///
/// # Errors
/// `INVALID_FIELD`.
pub fn username(field: &'static str, value: &str) -> Result<Option<String>> {
    /// Longest of a name that is chosen here.
    const LONGEST: usize = 64;
    if value.is_empty() {
        return Ok(None);
    }
    let fine = |c: char| !c.is_control() && !c.is_whitespace() && c != '@';
    if value.chars().count() > LONGEST || !value.chars().all(fine) {
        return Err(Fault::field(field, "must be 1 to 64 characters without @, blanks or control characters"));
    }
    match username_key(value) {
        Some(_) => Ok(Some(value.to_owned())),
        None => Err(Fault::field(
            field,
            "must be of letters of one script, digits and signs, with nothing that is not seen and nothing that looks \
             like letters of another script",
        )),
    }
}

fn folded(username: &str) -> Option<String> {
    let compatible: String = username.nfkc().collect();
    if compatible.contains('@') || compatible.chars().any(is_unseen) {
        return None;
    }
    let mut words = Vec::new();
    for word in compatible.split_whitespace() {
        // A sigma is written in another form at the end of a word, and has one capital: it is one letter.
        words.push(UsernameCaseMapped::enforce(word).ok()?.replace('ς', "σ"));
    }
    (!words.is_empty()).then(|| words.join(" "))
}

/// Joiners and variation selectors: allowed between some letters, and invisible.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Whether letters of several scripts are mixed, other than as in Chinese, Japanese and Korean beside Latin; or whether
/// all of a name in another script looks like ASCII.
fn looks_alike(key: &str) -> bool {
    let latin = |c: char| AugmentedScriptSet::for_char(c).base.contains_script(unicode_script::Script::Latin);
    let all = AugmentedScriptSet::for_str(key);
    if all.is_empty() {
        let others: String = key.chars().filter(|c| !latin(*c)).collect();
        let others = AugmentedScriptSet::for_str(&others);
        return !(others.hanb || others.jpan || others.kore);
    }
    !all.base.contains_script(unicode_script::Script::Latin) && !key.is_ascii() && skeleton(key).all(|c| c.is_ascii())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_one_name_has_one_key() {
        for (name, key) in [
            ("Ann", "ann"),
            ("Björn.O'Neil", "björn.o'neil"),
            ("BJO\u{308}RN", "björn"),
            ("ａｎｎ", "ann"),
            ("ﬁona", "fiona"),
            ("Straße", "straße"),
            ("ΝΊΚΟΣ", "νίκοσ"),
            ("Νίκος", "νίκοσ"),
            ("ПЁТР", "пётр"),
            ("田中Ken", "田中ken"),
            ("Jan  Novák", "jan novák"),
            ("אבג", "אבג"),
        ] {
            assert_eq!(username_key(name).as_deref(), Some(key), "{name}");
            assert_eq!(identifier_key(&format!(" {name} ")), key, "{name}");
        }
        assert_eq!(email_key(" Ann@Example.COM "), "ann@example.com");
        assert_eq!(identifier_key("Ann@Example.COM"), "ann@example.com");
    }

    /// Postgres makes `irem` of the first and Rust does not: a user registered as `irem` was signed in as the other.
    #[test]
    fn a_dotted_capital_i_is_no_plain_one() {
        let dotted = username_key("İrem").unwrap();
        assert_ne!(Some(&dotted), username_key("irem").as_ref());
        assert_eq!(username_key(&dotted).as_ref(), Some(&dotted));
        assert_eq!(username_key("İREM"), Some(dotted), "and it is one name in either case");
        assert_ne!(username_key("ırem"), username_key("irem"));
    }

    #[test]
    fn what_cannot_be_told_from_another_name_is_none() {
        for name in [
            "",
            " ",
            "a@b",
            "a＠b",
            "аnn",
            "аnna",
            "сосо",
            "pаypal",
            "ann\u{200b}",
            "a\u{200d}nn",
            "ann\u{202e}",
            "ann\u{feff}",
            "ann\u{fe0f}",
            "a\u{0}nn",
            "אבגann",
            "ΑΝΝ",
        ] {
            assert_eq!(username_key(name), None, "{name:?}");
            assert!(identifier_key(name).starts_with(' ') || name.contains('@'), "{name:?}");
        }
    }

    #[test]
    fn a_name_that_is_kept_is_kept_as_it_was_given() {
        assert_eq!(username("username", "").unwrap(), None);
        assert_eq!(username("username", "Björn.O'Neil").unwrap().as_deref(), Some("Björn.O'Neil"));
        for bad in ["a@b", "a b", "a\u{0}", "a\n", "аnn", &"x".repeat(65)] {
            assert!(username("username", bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_key_of_a_key_is_itself(name in "\\PC{0,20}|[a-zA-Zİıßſÿﬁ ]{0,12}") {
            if let Some(key) = username_key(&name) {
                prop_assert_eq!(username_key(&key), Some(key.clone()));
                prop_assert!(!key.starts_with(' ') && !key.contains('@'));
            }
            let key = identifier_key(&name);
            prop_assert!(key.starts_with(' ') || identifier_key(&key) == key);
        }
    }
}
