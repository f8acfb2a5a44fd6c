//! Creating persons: a batch at a time, bisected down to the failing entry when Kanidm refuses it.

use std::collections::HashSet;

use uuid::Uuid;

use super::Engine;
use super::isolation::{Fate, Isolation};
use super::item::{Item, Stage};
use super::pace::Pace;
use super::trouble::Trouble;
use crate::kanidm::{Concern, KanidmError, NewPerson};
use crate::migration::vocabulary::ItemReason;

impl Engine {
    /// Creates the persons of these items. What is decided is passed to `decide` immediately, so that it is known also
    /// when trouble comes before the rest is.
    pub(super) async fn create(&self, items: &[Item], mut decide: impl FnMut(Uuid, Stage)) -> Result<(), Trouble> {
        let size = self.pace(|paces| paces.create.size());
        let mut isolation = Isolation::new((0..items.len()).collect(), size);
        // Entries of calls that may have been done all the same: their persons may be there, and ours.
        let mut doubtful: HashSet<usize> = HashSet::new();
        while let Some(part) = isolation.next()? {
            let persons: Vec<NewPerson> = part.iter().map(|place| items[*place].person.clone()).collect();
            let limit = self.pace(|paces| paces.create.limit(persons.len()));
            let (kanidm, since) = (self.parts.kanidm.within(limit), self.parts.context.clock.stopwatch());
            let answer = kanidm.create_persons(&persons).await;
            let took = since.elapsed();
            self.pace(|paces| measure(&mut paces.create, persons.len(), limit, took, &answer));
            if answer.as_ref().is_err_and(KanidmError::may_have_been_done) {
                doubtful.extend(&part);
            }
            for (place, fate) in isolation.answered(part, answer)? {
                let item = &items[place];
                let stage = match fate {
                    Fate::Done => Stage::Exists,
                    Fate::Refused(error) => {
                        let had_intent = item.had_intent || doubtful.contains(&place);
                        self.refused(&Item { had_intent, ..item.clone() }, error).await?
                    }
                    Fate::Unclear(error) => {
                        tracing::warn!(
                            event = "kanidm_unclear_about_person",
                            item_id = %item.item_id,
                            cause = %error,
                            "no answer about a person could be understood"
                        );
                        Stage::review(ItemReason::AnswerUnclear)
                    }
                };
                decide(item.item_id, stage);
            }
        }
        Ok(())
    }

    /// What becomes of the one item whose person Kanidm refused.
    async fn refused(&self, item: &Item, error: KanidmError) -> Result<Stage, Trouble> {
        Ok(match error {
            KanidmError::UuidTaken => return self.uuid_taken(item).await,
            KanidmError::Duplicate(attributes) => Stage::failed(self.duplicate(item, &attributes).await?),
            KanidmError::Invalid(Some(attribute)) if attribute == "name" => Stage::failed(ItemReason::NameRefused),
            KanidmError::Invalid(Some(attribute)) if attribute == "mail" => Stage::failed(ItemReason::MailRefused),
            other => {
                tracing::warn!(event = "kanidm_refused_person", item_id = %item.item_id, cause = %other, "a person was refused");
                Stage::failed(ItemReason::PersonRefused)
            }
        })
    }

    /// The uuid is there. If we meant to make the person before, it may be ours; otherwise another client made it.
    async fn uuid_taken(&self, item: &Item) -> Result<Stage, Trouble> {
        let person = self.parts.kanidm.person(item.person.uuid).await.map_err(Trouble::of)?;
        match person {
            None => Ok(Stage::failed(ItemReason::PersonDeleted)),
            Some(_) if !item.had_intent => Ok(Stage::review(ItemReason::PersonNotOurs)),
            Some(person) => self.adopt(item, &person).await,
        }
    }

    /// Which of the two values is taken, where Kanidm does not say it.
    async fn duplicate(&self, item: &Item, attributes: &[String]) -> Result<ItemReason, Trouble> {
        if attributes.iter().any(|attribute| attribute == "mail") {
            return Ok(ItemReason::MailTaken);
        }
        if !attributes.is_empty() {
            return Ok(ItemReason::NameTaken);
        }
        let (name, mail) = (item.person.name.as_str(), item.person.mail.as_str());
        let taken = self.parts.kanidm.taken(&[name], &[mail]).await.map_err(Trouble::of)?;
        // A mail that may not be read is not found; then the name decides, and what is left is the mail.
        Ok(match (taken.mails.contains_key(mail), taken.names.contains_key(name)) {
            (false, true) => ItemReason::NameTaken,
            _ => ItemReason::MailTaken,
        })
    }
}

/// Reports to the pace how a call went.
pub(super) fn measure(
    pace: &mut Pace,
    entries: usize,
    limit: std::time::Duration,
    took: std::time::Duration,
    answer: &Result<(), KanidmError>,
) {
    match answer.as_ref().err().map(KanidmError::concern) {
        None | Some(Concern::Entry) => pace.answered(entries, took),
        Some(Concern::Time) => pace.timed_out(entries, limit),
        Some(Concern::Size) => pace.too_large(entries),
        // What does no work takes no time.
        Some(Concern::Access | Concern::Reach | Concern::State | Concern::Unclear) => {}
    }
}
