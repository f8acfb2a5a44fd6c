//! What Kanidm will say, as far as it can be asked beforehand.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use uuid::Uuid;

use super::assign::{Seeker, assign};
use super::store::{self, User};
use crate::db::{Db, Scope};
use crate::fault::Result;
use crate::kanidm::{Kanidm, KanidmError, Person};
use crate::migration::names;
use crate::migration::vocabulary::{Forecast, ItemReason};

/// Users that are asked about with one search.
const CHUNK: usize = 28;
/// Concurrent searches.
const AT_ONCE: usize = 4;
/// Numbered choices that are asked about when a name is taken, so that many of one name do not take as many rounds.
const LOOK_AHEAD: usize = 8;

/// A name in Kanidm and what will become of its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outlook {
    pub name: String,
    pub forecast: Forecast,
    pub reason: Option<ItemReason>,
}

/// What Kanidm knows that concerns a plan.
#[derive(Default)]
struct Known {
    persons: HashMap<Uuid, Person>,
    mails: HashMap<String, Uuid>,
    /// uuids in the recycle bin, where the service account may look into it.
    recycled: HashSet<Uuid>,
}

/// The outlook for each user, in their order. `foreign` are tenants one of whose groups is not ours.
pub(super) async fn outlook(db: &Db, kanidm: &Kanidm, users: &[User], foreign: &HashSet<Uuid>) -> Result<Vec<Outlook>> {
    let known = ask(kanidm, users).await?;
    let mut outlooks: Vec<Outlook> = users
        .iter()
        .map(|user| {
            let reason = obstacle(user, &known, foreign);
            let forecast = match reason {
                None => Forecast::WillBeCreated,
                Some(ItemReason::PersonNotOurs | ItemReason::PersonDiffers | ItemReason::PersonHasCredential) => {
                    Forecast::NeedsReview
                }
                Some(_) => Forecast::WillBeRefused,
            };
            Outlook { name: user.first_choice(), forecast, reason }
        })
        .collect();
    // A person that an earlier migration made keeps the name that it was made with.
    let mut places = Vec::new();
    for (place, (user, outlook)) in users.iter().zip(&mut outlooks).enumerate() {
        match (&user.intended_name, known.persons.contains_key(&user.user_id)) {
            (Some(name), true) if outlook.reason.is_none() => outlook.name.clone_from(name),
            _ if outlook.reason.is_none() => places.push(place),
            _ => {}
        }
    }
    let seekers: Vec<Seeker> = places.iter().map(|place| users[*place].seeker()).collect();
    let own: HashSet<Uuid> = users.iter().map(|user| user.user_id).collect();
    for (place, name) in places.into_iter().zip(names(db, kanidm, &own, &seekers).await?) {
        outlooks[place].name = name;
    }
    Ok(outlooks)
}

async fn ask(kanidm: &Kanidm, users: &[User]) -> Result<Known> {
    let mut known = Known { recycled: kanidm.recycled().await?, ..Known::default() };
    let chunks: Vec<(Vec<Uuid>, Vec<String>)> = users
        .chunks(CHUNK)
        .map(|chunk| chunk.iter().map(|user| (user.user_id, user.email_key.clone())).unzip())
        .collect();
    let mut answers = stream::iter(chunks)
        .map(|(uuids, mails)| async move {
            let mails: Vec<&str> = mails.iter().map(String::as_str).collect();
            Ok::<_, KanidmError>((kanidm.persons(&uuids).await?, kanidm.taken(&[], &mails).await?))
        })
        .buffer_unordered(AT_ONCE);
    while let Some((persons, taken)) = answers.try_next().await? {
        known.persons.extend(persons);
        known.mails.extend(taken.mails);
    }
    Ok(known)
}

/// What prevents the user's migration.
fn obstacle(user: &User, known: &Known, foreign: &HashSet<Uuid>) -> Option<ItemReason> {
    if user.is_held {
        return Some(ItemReason::InOtherMigration);
    }
    if user.is_above {
        return Some(ItemReason::UserAboveCaller);
    }
    if !user.is_verified {
        return Some(ItemReason::MailUnverified);
    }
    if !user.is_of_domain {
        return Some(ItemReason::MailForeignDomain);
    }
    if foreign.contains(&user.tenant_id) {
        return Some(ItemReason::GroupNotOurs);
    }
    if let Some(person) = known.persons.get(&user.user_id) {
        return doubt(user, person);
    }
    if known.mails.contains_key(&user.email_key) {
        return Some(ItemReason::MailTaken);
    }
    // Which addresses are well-formed differs between releases of Kanidm: that is for Kanidm to say, at the time.
    known.recycled.contains(&user.user_id).then_some(ItemReason::PersonDeleted)
}

/// Why the person who has the user's uuid already cannot simply be the user's.
fn doubt(user: &User, person: &Person) -> Option<ItemReason> {
    let Some(intended_name) = &user.intended_name else { return Some(ItemReason::PersonNotOurs) };
    if person.has_credential {
        return Some(ItemReason::PersonHasCredential);
    }
    let is_as_planned = person.name == *intended_name
        && person.display_name == user.display_name(intended_name)
        && person.mail == [user.email_key.as_str()];
    (!is_as_planned).then_some(ItemReason::PersonDiffers)
}

/// Names for all seekers that are free in Kanidm and in other migrations. What is asked depends on what is
/// taken, so it goes in rounds; the outcome is the same as if all taken names had been known from the beginning.
async fn names(db: &Db, kanidm: &Kanidm, own: &HashSet<Uuid>, seekers: &[Seeker]) -> Result<Vec<String>> {
    let mut taken: HashSet<String> = HashSet::new();
    let mut asked: HashSet<String> = HashSet::new();
    loop {
        let chosen = assign(seekers, &taken);
        let mut questions: HashSet<String> = HashSet::new();
        for (seeker, name) in seekers.iter().zip(&chosen) {
            if asked.contains(name) {
                continue;
            }
            questions.insert(name.clone());
            if *name != seeker.first_choice {
                let number: usize = name.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(2);
                questions.extend((number..number + LOOK_AHEAD).map(|n| names::choice(&seeker.first_choice, n)));
            }
        }
        questions.retain(|name| asked.insert(name.clone()));
        if questions.is_empty() {
            return Ok(chosen);
        }
        let questions: Vec<String> = questions.into_iter().collect();
        // Names are one space for all tenants, as they are in Kanidm.
        let mut tx = db.begin(Scope::Platform).await?;
        taken.extend(store::names_of_others(&mut tx, &questions, own).await?);
        drop(tx);
        let chunks: Vec<Vec<String>> = questions.chunks(CHUNK).map(<[String]>::to_vec).collect();
        let mut answers = stream::iter(chunks)
            .map(|chunk| async move {
                let names: Vec<&str> = chunk.iter().map(String::as_str).collect();
                kanidm.taken(&names, &[]).await
            })
            .buffer_unordered(AT_ONCE);
        while let Some(found) = answers.try_next().await? {
            taken.extend(found.names.into_keys());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User {
            user_id: Uuid::from_u128(7),
            tenant_id: Uuid::from_u128(1),
            version: 1,
            rights_version: 1,
            username: Some("ann".to_owned()),
            email_key: "ann@a.example".to_owned(),
            full_name: "Ann Lee".to_owned(),
            hash_kind: None,
            hash_cost: None,
            slug: "a".to_owned(),
            is_member: true,
            is_admin: false,
            intended_name: None,
            is_held: false,
            is_verified: true,
            is_of_domain: true,
            is_above: false,
        }
    }

    fn person() -> Person {
        Person {
            uuid: Uuid::from_u128(7),
            name: "ann".to_owned(),
            display_name: "Ann Lee".to_owned(),
            mail: vec!["ann@a.example".to_owned()],
            has_credential: false,
        }
    }

    fn reason(user: &User, known: &Known) -> Option<ItemReason> {
        obstacle(user, known, &HashSet::new())
    }

    #[test]
    fn a_person_is_ours_only_by_an_earlier_intent_and_only_as_intended() {
        let known = |person: Person| Known { persons: HashMap::from([(person.uuid, person)]), ..Known::default() };
        assert_eq!(reason(&user(), &known(person())), Some(ItemReason::PersonNotOurs));
        let intended = User { intended_name: Some("ann".to_owned()), ..user() };
        assert_eq!(reason(&intended, &known(person())), None);
        let other = |person| reason(&intended, &known(person));
        assert_eq!(other(Person { has_credential: true, ..person() }), Some(ItemReason::PersonHasCredential));
        assert_eq!(other(Person { name: "bob".to_owned(), ..person() }), Some(ItemReason::PersonDiffers));
        assert_eq!(other(Person { display_name: "Bob".to_owned(), ..person() }), Some(ItemReason::PersonDiffers));
        assert_eq!(
            other(Person { mail: vec!["bob@a.example".to_owned()], ..person() }),
            Some(ItemReason::PersonDiffers)
        );
        // Also when the service account may not read addresses.
        assert_eq!(other(Person { mail: Vec::new(), ..person() }), Some(ItemReason::PersonDiffers));
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let mails = HashMap::from([("ann@a.example".to_owned(), Uuid::from_u128(9))]);
        assert_eq!(reason(&user(), &Known { mails, ..Known::default() }), Some(ItemReason::MailTaken));
        assert_eq!(reason(&User { is_held: true, ..user() }, &Known::default()), Some(ItemReason::InOtherMigration));
        let reason_of = |user: User| reason(&user, &Known::default());
        assert_eq!(reason_of(User { is_verified: false, ..user() }), Some(ItemReason::MailUnverified));
        assert_eq!(reason_of(User { is_of_domain: false, ..user() }), Some(ItemReason::MailForeignDomain));
        assert_eq!(reason_of(User { is_above: true, ..user() }), Some(ItemReason::UserAboveCaller));
        // Releases differ in what they accept: 1.11 takes a slash, 1.7 does not.
        let slash = User { email_key: "a/b@a.example".to_owned(), ..user() };
        assert_eq!(reason(&slash, &Known::default()), None);
        let recycled = HashSet::from([user().user_id]);
        assert_eq!(reason(&user(), &Known { recycled, ..Known::default() }), Some(ItemReason::PersonDeleted));
        let foreign = HashSet::from([user().tenant_id]);
        assert_eq!(obstacle(&user(), &Known::default(), &foreign), Some(ItemReason::GroupNotOurs));
    }
}
