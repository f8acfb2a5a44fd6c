//! Names in Kanidm: derived from what Sidle knows of a user. A Kanidm name is 1 to 64 of `a-z 0-9 . _ -`, begins with a
//! letter, and is no UUID; a user's own name may be anything. The same user always gets the same first choice.

use deunicode::deunicode;
use uuid::Uuid;

/// What a Kanidm name holds at most.
pub const LONGEST: usize = 64;

/// Names that Kanidm keeps for itself, or that would pass for an authority.
const RESERVED: [&str; 14] = [
    "admin",
    "administrator",
    "anonymous",
    "everyone",
    "guest",
    "idm_admin",
    "kanidm",
    "nobody",
    "operator",
    "root",
    "sidle",
    "superuser",
    "system",
    "www-data",
];
/// Beginnings of the names of Kanidm's own groups, and of ours.
const RESERVED_PREFIXES: [&str; 6] = ["builtin_", "domain_", "ext_idm_", "idm_", "system_", "tenant_"];
/// Put before what may not stand alone.
const PREFIX: &str = "user-";

/// The name that a user should get if it is free: from the username, else from the address, else from the name shown
/// to people, else from the id.
pub fn first_choice(user_id: Uuid, username: Option<&str>, email: &str, full_name: &str) -> String {
    let local_part = email.split('@').next().unwrap_or_default();
    // What follows a plus sorts mail and is no part of the name.
    let local_part = local_part.split('+').next().unwrap_or_default();
    [username.unwrap_or_default(), local_part, full_name]
        .into_iter()
        .find_map(derive)
        .unwrap_or_else(|| format!("{PREFIX}{}", &user_id.simple().to_string()[20..]))
}

/// The `number`th choice for a name whose first choice is taken: `name`, `name-2`, `name-3`, ...
pub fn choice(first: &str, number: usize) -> String {
    if number <= 1 {
        return first.to_owned();
    }
    let suffix = format!("-{number}");
    format!("{}{suffix}", cut(first, LONGEST - suffix.len()))
}

/// Whether Kanidm accepts the name, as far as its form goes.
pub fn is_acceptable(name: &str) -> bool {
    (1..=LONGEST).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        && !is_kept(name)
}

fn is_kept(name: &str) -> bool {
    RESERVED.contains(&name) || RESERVED_PREFIXES.iter().any(|p| name.starts_with(p)) || Uuid::try_parse(name).is_ok()
}

/// None when nothing of `text` can stand in a name.
fn derive(text: &str) -> Option<String> {
    let mut name = String::with_capacity(text.len());
    for c in deunicode(text).chars() {
        let c = match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '.' | '_' | '-') => c,
            '\'' | '`' | '"' => continue,
            c if c.is_whitespace() => '.',
            _ => '-',
        };
        // No runs of separators, and none in front.
        let is_separator = !c.is_ascii_alphanumeric();
        if !(is_separator && name.chars().next_back().is_none_or(|last| !last.is_ascii_alphanumeric())) {
            name.push(c);
        }
    }
    let name = cut(&name, LONGEST);
    if name.is_empty() {
        None
    } else if name.starts_with(|c: char| c.is_ascii_lowercase()) && !is_kept(name) {
        Some(name.to_owned())
    } else {
        Some(cut(&format!("{PREFIX}{name}"), LONGEST).to_owned())
    }
}

/// At most `length` characters, without a separator at the end. The text is ASCII.
fn cut(name: &str, length: usize) -> &str {
    name[..name.len().min(length)].trim_end_matches(|c: char| !c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const ID: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_00c0_ffee_0123);

    fn name(username: &str, email: &str, full_name: &str) -> String {
        first_choice(ID, (!username.is_empty()).then_some(username), email, full_name)
    }

    #[test]
    fn the_username_comes_first_then_the_address_then_the_name() {
        assert_eq!(name("Ann.Lee", "x@a.example", "Ann"), "ann.lee");
        assert_eq!(name("", "ann.lee+news@a.example", "Ann"), "ann.lee");
        assert_eq!(name("", "***@a.example", "Łukasz Żak"), "lukasz.zak");
        assert_eq!(name("", "***@a.example", ""), "user-00c0ffee0123");
    }

    #[test]
    fn what_kanidm_would_refuse_is_written_differently() {
        assert_eq!(name("Müller", "", ""), "muller");
        assert_eq!(name("o'neill", "", ""), "oneill");
        assert_eq!(name("a  b//c", "", ""), "a.b-c");
        assert_eq!(name("_ann_", "", ""), "ann");
        assert_eq!(name("3com", "", ""), "user-3com");
        for kept in ["root", "admin", "anonymous", "idm_people", "tenant_x_admins"] {
            assert_eq!(name(kept, "", ""), format!("user-{kept}"));
        }
        let uuid_like = "abcdefabcdefabcdefabcdefabcdefab";
        assert_eq!(name(uuid_like, "", ""), format!("user-{uuid_like}"));
        assert_eq!(name(&"x".repeat(70), "", "").len(), LONGEST);
    }

    #[test]
    fn later_choices_are_numbered_and_fit() {
        assert_eq!(choice("ann", 1), "ann");
        assert_eq!(choice("ann", 2), "ann-2");
        let long = "x".repeat(LONGEST);
        assert_eq!(choice(&long, 12), format!("{}-12", "x".repeat(61)));
    }

    proptest! {
        #[test]
        fn every_choice_is_acceptable(
            id: u128,
            username in proptest::option::of("\\PC{0,90}"),
            email in "\\PC{0,40}",
            full_name in "\\PC{0,40}",
            number in 1usize..100_000,
        ) {
            let id = Uuid::from_u128(id);
            let first = first_choice(id, username.as_deref(), &email, &full_name);
            prop_assert!(is_acceptable(&first), "{first:?}");
            let chosen = choice(&first, number);
            prop_assert!(is_acceptable(&chosen), "{chosen:?}");
            prop_assert_eq!(first, first_choice(id, username.as_deref(), &email, &full_name));
        }

        #[test]
        fn choices_of_one_name_differ(username in "[a-z.]{1,70}") {
            let first = first_choice(ID, Some(&username), "", "");
            let choices: HashSet<String> = (1..200).map(|number| choice(&first, number)).collect();
            prop_assert_eq!(choices.len(), 199);
        }

        #[test]
        fn a_fitting_username_is_kept(username in "[a-z][a-z0-9]{0,20}([._-][a-z0-9]{1,10}){0,2}") {
            prop_assume!(is_acceptable(&username));
            prop_assert_eq!(first_choice(ID, Some(&username), "", ""), username);
        }
    }
}
