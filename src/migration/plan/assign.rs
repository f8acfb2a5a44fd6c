//! Giving names to all users of a plan. A pure function of the users and of the names that are taken, so that the same
//! input always gives the same plan.

use std::collections::{HashMap, HashSet};

use crate::migration::names;

/// A user who needs a name.
#[derive(Clone, Debug)]
pub(super) struct Seeker {
    pub first_choice: String,
    /// Whether the first choice is the user's own username; such users choose first.
    pub is_username: bool,
}

/// The name for each seeker, in their order: the first of its choices that is free.
pub(super) fn assign(seekers: &[Seeker], taken: &HashSet<String>) -> Vec<String> {
    let mut given: HashSet<String> = HashSet::with_capacity(seekers.len());
    // Where to go on for a first choice that many share; without it a thousand of one name would try half a million.
    let mut next: HashMap<&str, usize> = HashMap::new();
    let mut names = vec![String::new(); seekers.len()];
    for by_username in [true, false] {
        for (place, seeker) in seekers.iter().enumerate().filter(|(_, seeker)| seeker.is_username == by_username) {
            let number = next.entry(&seeker.first_choice).or_insert(1);
            let name = loop {
                let name = names::choice(&seeker.first_choice, *number);
                *number += 1;
                if !taken.contains(&name) && given.insert(name.clone()) {
                    break name;
                }
            };
            names[place] = name;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seeker(name: &str, is_username: bool) -> Seeker {
        Seeker { first_choice: name.to_owned(), is_username }
    }

    #[test]
    fn a_username_is_kept_by_whoever_has_it() {
        let seekers = [seeker("ann", false), seeker("ann", true), seeker("ann", false), seeker("bob", false)];
        let taken = HashSet::from(["ann-2".to_owned(), "bob".to_owned()]);
        assert_eq!(assign(&seekers, &taken), ["ann-3", "ann", "ann-4", "bob-2"]);
    }

    proptest! {
        #[test]
        fn names_are_free_different_and_the_same_each_time(
            wanted in proptest::collection::vec(("[ab]{1,2}(-2)?", any::<bool>()), 0..60),
            taken in proptest::collection::hash_set("[ab]{1,2}(-[23])?", 0..20),
        ) {
            let seekers: Vec<Seeker> = wanted.iter().map(|(name, own)| seeker(name, *own)).collect();
            let names = assign(&seekers, &taken);
            prop_assert!(names.iter().all(|name| names::is_acceptable(name) && !taken.contains(name)));
            prop_assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
            prop_assert_eq!(assign(&seekers, &taken), names);
        }
    }
}
