//! Whether a person that is there already is ours. A uuid proves nothing: anybody who may create persons chooses it.

use super::Engine;
use super::item::{Item, Stage};
use super::trouble::Trouble;
use crate::kanidm::{KanidmError, NewPerson, Person};
use crate::migration::vocabulary::ItemReason;

/// Why `person` is not what `intended` meant; none when it is.
pub(super) fn objection(intended: &NewPerson, person: &Person) -> Option<ItemReason> {
    if person.has_credential {
        return Some(ItemReason::PersonHasCredential);
    }
    let is_as_intended = person.uuid == intended.uuid
        && person.name == intended.name
        && person.display_name == intended.display_name
        && person.mail == [intended.mail.as_str()];
    (!is_as_intended).then_some(ItemReason::PersonDiffers)
}

impl Engine {
    /// Takes the person for the one that an earlier attempt made, if an intent was recorded before, it is as intended and
    /// nobody can sign in as it.
    pub(super) async fn adopt(&self, item: &Item, person: &Person) -> Result<Stage, Trouble> {
        if !item.had_intent {
            return Ok(Stage::review(ItemReason::PersonNotOurs));
        }
        if let Some(reason) = objection(&item.person, person) {
            return Ok(Stage::review(reason));
        }
        match self.parts.kanidm.has_credential(person.uuid).await {
            Ok(false) => Ok(Stage::Exists),
            Ok(true) => Ok(Stage::review(ItemReason::PersonHasCredential)),
            Err(KanidmError::NotFound) => Ok(Stage::failed(ItemReason::PersonDeleted)),
            Err(error) => Err(Trouble::of(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn only_the_intended_person_without_a_credential_is_taken() {
        let intended = NewPerson {
            uuid: Uuid::from_u128(7),
            name: "ann".to_owned(),
            display_name: "Ann".to_owned(),
            mail: "ann@a.example".to_owned(),
        };
        let person = Person {
            uuid: intended.uuid,
            name: intended.name.clone(),
            display_name: intended.display_name.clone(),
            mail: vec![intended.mail.clone()],
            has_credential: false,
        };
        assert_eq!(objection(&intended, &person), None);
        let differs = Some(ItemReason::PersonDiffers);
        assert_eq!(objection(&intended, &Person { name: "ann-2".to_owned(), ..person.clone() }), differs);
        assert_eq!(objection(&intended, &Person { display_name: String::new(), ..person.clone() }), differs);
        assert_eq!(objection(&intended, &Person { mail: Vec::new(), ..person.clone() }), differs);
        let two = vec![intended.mail.clone(), "mallory@a.example".to_owned()];
        assert_eq!(objection(&intended, &Person { mail: two, ..person.clone() }), differs);
        let has_credential = Some(ItemReason::PersonHasCredential);
        assert_eq!(objection(&intended, &Person { has_credential: true, ..person }), has_credential);
    }
}
