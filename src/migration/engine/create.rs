//! Creating persons: a batch at a time, and by halves down to the guilty entry when Kanidm refuses a batch.

use uuid::Uuid;

use super::Engine;
use super::item::{Item, Stage};
use crate::kanidm::{KanidmError, NewPerson};
use crate::migration::vocabulary::{ItemReason, WaitReason};

/// Why Kanidm cannot be worked with at the moment. Items keep their state and are taken up again later.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub wait: WaitReason,
    pub cause: KanidmError,
}

impl Trouble {
    /// The trouble that an error means, or the error itself where it is about what was asked.
    pub(super) fn read(error: KanidmError) -> Result<Self, KanidmError> {
        match error {
            KanidmError::Unavailable(_) | KanidmError::Nonsense(_) | KanidmError::Resting(_) => {
                Ok(Self { wait: WaitReason::KanidmUnavailable, cause: error })
            }
            KanidmError::NotAuthenticated | KanidmError::AccessDenied => {
                Ok(Self { wait: WaitReason::KanidmAccessDenied, cause: error })
            }
            other => Err(other),
        }
    }

    /// The trouble that an error of a question means: Kanidm always has an answer to those.
    pub(super) fn of_question(error: KanidmError) -> Self {
        Self::read(error).unwrap_or_else(|cause| Self { wait: WaitReason::KanidmUnavailable, cause })
    }
}

impl Engine {
    /// Creates the persons of these items. What is decided is told through `decide` at once, so that it is known also
    /// when trouble comes before the rest is.
    pub(super) async fn create(&self, items: &[Item], mut decide: impl FnMut(Uuid, Stage)) -> Result<(), Trouble> {
        let mut waiting: Vec<&[Item]> = if items.is_empty() { Vec::new() } else { vec![items] };
        while let Some(part) = waiting.pop() {
            let persons: Vec<NewPerson> = part.iter().map(|item| item.person.clone()).collect();
            let Err(error) = self.parts.kanidm.create_persons(&persons).await else {
                part.iter().for_each(|item| decide(item.item_id, Stage::Exists));
                continue;
            };
            let error = match Trouble::read(error) {
                Ok(trouble) => return Err(trouble),
                Err(error) => error,
            };
            match part {
                [item] => decide(item.item_id, self.refused(item, error).await?),
                _ => {
                    let (left, right) = part.split_at(part.len() / 2);
                    // The left half is next, so that items are decided in their order.
                    waiting.extend([right, left]);
                }
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

    /// The uuid is there. If we meant to make the person before, it may be ours; otherwise somebody else made it.
    async fn uuid_taken(&self, item: &Item) -> Result<Stage, Trouble> {
        let person = self.parts.kanidm.person(item.person.uuid).await.map_err(Trouble::of_question)?;
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
        let taken = self.parts.kanidm.taken(&[name], &[mail]).await.map_err(Trouble::of_question)?;
        // A mail that may not be read is not found; then the name decides, and what is left is the mail.
        Ok(match (taken.mails.contains_key(mail), taken.names.contains_key(name)) {
            (false, true) => ItemReason::NameTaken,
            _ => ItemReason::MailTaken,
        })
    }
}
