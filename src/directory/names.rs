//! What names and permissions may look like. The same rules stand as constraints in the database; here they become
//! answers that name the field.

use std::collections::BTreeSet;

use crate::access::input;
use crate::fault::{Fault, Result};

/// Most permissions that a role, a service account or a key may list.
const MOST_PERMISSIONS: usize = 100;
/// Most client certificates that a service account may have.
const MOST_CERTIFICATES: usize = 20;

fn matches(value: &str, longest: usize, first: impl Fn(char) -> bool, rest: impl Fn(char) -> bool) -> bool {
    let mut letters = value.chars();
    letters.next().is_some_and(first) && letters.all(rest) && value.chars().count() <= longest
}

/// A tenant's slug.
pub(super) fn slug(field: &'static str, value: &str) -> Result<String> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if matches(value, 48, |c| c.is_ascii_lowercase(), fine) {
        Ok(value.to_owned())
    } else {
        Err(Fault::field(field, "must be 1 to 48 of a-z, 0-9 and -, beginning with a letter"))
    }
}

/// Whether this is a domain as it stands behind the `@` of an address in lower case.
pub(super) fn is_domain(value: &str) -> bool {
    let fine = |c: char| c.is_alphanumeric() && !c.is_uppercase() || c == '-' || c == '.';
    matches(value, 253, |c| c.is_alphanumeric() && !c.is_uppercase(), fine)
}

/// A role's name.
pub(super) fn role(field: &'static str, value: &str) -> Result<String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if matches(value, 64, |c| c.is_ascii_alphabetic(), fine) {
        Ok(value.to_owned())
    } else {
        Err(Fault::field(field, "must be 1 to 64 of A-Z, a-z, 0-9, dot, underscore and -, beginning with a letter"))
    }
}

/// What a role's name looks like: two names of one likeness are taken for each other by people, and by services that
/// compare without regard to case.
pub(super) fn likeness(name: &str) -> String {
    let alike = |c: char| match c {
        '0' => 'o',
        '1' | 'i' => 'l',
        '3' => 'e',
        '4' => 'a',
        '5' => 's',
        '7' => 't',
        '8' => 'b',
        c => c,
    };
    let letters = name.to_ascii_lowercase().chars().filter(|c| !"._-".contains(*c)).map(alike).collect::<String>();
    letters.replace("rn", "m").replace("vv", "w")
}

/// A service account's name.
pub(super) fn service_account(field: &'static str, value: &str) -> Result<String> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    if matches(value, 64, |c| c.is_ascii_lowercase(), fine) {
        Ok(value.to_owned())
    } else {
        Err(Fault::field(field, "must be 1 to 64 of a-z, 0-9, dot, underscore and -, beginning with a letter"))
    }
}

/// A list of permissions, sorted and each once.
pub(super) fn permissions(field: &'static str, values: &[String]) -> Result<Vec<String>> {
    if values.len() > MOST_PERMISSIONS {
        return Err(Fault::field(field, format!("must be at most {MOST_PERMISSIONS}")));
    }
    match values.iter().find(|value| !is_permission(value)) {
        Some(_) => Err(Fault::field(
            field,
            "must each be * or words of a-z, 0-9 and underscore joined by dots, such as users.read",
        )),
        None => Ok(values.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect()),
    }
}

fn is_permission(value: &str) -> bool {
    let word = |word: &str| {
        matches(word, 64, |c| c.is_ascii_lowercase(), |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    value == "*" || (value.len() <= 128 && value.contains('.') && value.split('.').all(word))
}

/// Client certificates, each as its authority and its URI with a blank between them; sorted and each once.
pub(super) fn certificates<'a>(
    field: &'static str,
    certificates: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
) -> Result<Vec<String>> {
    if certificates.len() > MOST_CERTIFICATES {
        return Err(Fault::field(field, format!("must be at most {MOST_CERTIFICATES}")));
    }
    let mut known = BTreeSet::new();
    for (authority, uri) in certificates {
        if !is_authority(authority) {
            let problem = "must each have an authority of 1 to 64 of a-z, 0-9 and -, beginning with a letter";
            return Err(Fault::field(field, problem));
        }
        if !is_uri(uri) {
            let problem = "must each have a URI such as spiffe://example.org/billing, without wildcards";
            return Err(Fault::field(field, problem));
        }
        known.insert(format!("{authority} {uri}"));
    }
    Ok(known.into_iter().collect())
}

fn is_authority(name: &str) -> bool {
    matches(name, 64, |c| c.is_ascii_lowercase(), |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// As exact as the comparison: no wildcard, nothing that looks like something else.
fn is_uri(uri: &str) -> bool {
    let scheme = |scheme: &str| matches(scheme, 32, |c| c.is_ascii_alphabetic(), |c| c.is_ascii_alphanumeric());
    uri.len() <= 2048
        && uri.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*')
        && uri.split_once(':').is_some_and(|(before, after)| scheme(before) && !after.is_empty())
}

pub(super) fn description(field: &'static str, value: &str) -> Result<String> {
    input::text(field, value, 500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_fine_and_that_are_not() {
        assert!(slug("slug", "hotel-north-2").is_ok() && slug("slug", &"x".repeat(48)).is_ok());
        for bad in ["", "2nd", "-a", "Hotel", "a_b", "a.b", "ä", &"x".repeat(49)] {
            assert!(slug("slug", bad).is_err(), "{bad:?}");
        }
        assert!(role("name", "HOTEL_ADMIN").is_ok() && role("name", "1x").is_err() && role("name", "a b").is_err());
        assert!(service_account("name", "billing.api").is_ok() && service_account("name", "Billing").is_err());
    }

    #[test]
    fn names_that_look_alike_have_one_likeness() {
        for alike in ["SYSTEM_ADMIN", "system-admin", "SystemAdmin", "SYSTEM.ADM1N", "Systern_Admin", "5YSTEM_ADMIN"] {
            assert_eq!(likeness(alike), likeness("SYSTEM_ADMIN"), "{alike}");
        }
        assert_eq!(likeness("Super_Admin"), likeness("superadmin"));
        assert_ne!(likeness("HOTEL_ADMIN"), likeness("SYSTEM_ADMIN"));
        assert_ne!(likeness("users"), likeness("user"));
    }

    #[test]
    fn certificates_are_exact() {
        let read = |ca, uri| certificates("certificates", [(ca, uri)].into_iter());
        assert_eq!(read("corp", "spiffe://example.org/billing").unwrap(), ["corp spiffe://example.org/billing"]);
        for uri in ["", "spiffe://example.org/*", "billing", "spiffe:", "://x", "spiffe://a b", "spiffe://é", "a:\n"] {
            assert!(read("corp", uri).is_err(), "{uri:?}");
        }
        for authority in ["", "Corp", "2corp", "a b", "a*"] {
            assert!(read(authority, "spiffe://example.org/billing").is_err(), "{authority:?}");
        }
        assert!(certificates("certificates", vec![("corp", "a:b"); 21].into_iter()).is_err());
    }

    #[test]
    fn permissions_are_checked_sorted_and_kept_once() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let read = permissions("permissions", &list(&["users.write", "users.read", "users.write", "*"])).unwrap();
        assert_eq!(read, list(&["*", "users.read", "users.write"]));
        for bad in ["", "users", "users.", ".read", "Users.read", "users.*", "a b.c", "users..read", "**"] {
            assert!(permissions("permissions", &list(&[bad])).is_err(), "{bad:?}");
        }
        assert!(permissions("permissions", &vec!["users.read".to_owned(); 101]).is_err());
    }
}
