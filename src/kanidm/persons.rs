//! Persons: creating them in batches, and reading back what became of them.

use std::collections::{HashMap, HashSet};

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::client::{Body, Kanidm};
use super::error::{Concern, KanidmError, Result};

/// Kanidm refuses a search with more than 32 terms; the two or three around them count as well.
pub(super) const TERMS: usize = 28;

/// Fewer where kinds of entries are named beside them.
const MAIL_TERMS: usize = 24;

/// A person to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPerson {
    /// uuid, chosen by us.
    pub uuid: Uuid,
    /// Unique name.
    pub name: String,
    /// Name shown to people; not empty.
    pub display_name: String,
    /// Unique address.
    pub mail: String,
}

/// A person as Kanidm has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    pub uuid: Uuid,
    pub name: String,
    /// Name shown to people.
    pub display_name: String,
    /// Addresses; empty also when the service account may not read them.
    pub mail: Vec<String>,
    /// Whether anybody can sign in as this person: a password, a passkey or an attested passkey.
    pub has_credential: bool,
}

/// Names and addresses that entries in Kanidm have.
#[derive(Debug, Default)]
pub struct UsedNames {
    /// Names, of persons, groups and everything else that has one; with the entry's uuid.
    pub names: HashMap<String, Uuid>,
    /// Addresses in lower case, with the entry's uuid.
    pub mails: HashMap<String, Uuid>,
}

/// An entry: every attribute is a list of texts.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) attrs: HashMap<String, Vec<String>>,
}

impl Entry {
    pub(super) fn first(&self, attribute: &str) -> Option<&str> {
        self.attrs.get(attribute)?.first().map(String::as_str)
    }

    pub(super) fn uuid(&self) -> Result<Uuid> {
        let uuid = self.first("uuid").and_then(|uuid| Uuid::try_parse(uuid).ok());
        uuid.ok_or_else(|| KanidmError::Nonsense("an entry without a uuid".to_owned()))
    }

    fn person(&self) -> Result<Person> {
        let has = |attribute| self.attrs.get(attribute).is_some_and(|values| !values.is_empty());
        Ok(Person {
            uuid: self.uuid()?,
            name: self.first("name").unwrap_or_default().to_owned(),
            display_name: self.first("displayname").unwrap_or_default().to_owned(),
            mail: self.attrs.get("mail").cloned().unwrap_or_default(),
            has_credential: ["primary_credential", "passkeys", "attested_passkeys"].into_iter().any(has),
        })
    }
}

#[derive(Deserialize)]
struct Found {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Credentials {
    creds: Vec<Value>,
}

impl Kanidm {
    /// Creates all of `persons` in one transaction, or none. An error does not say which of them it is about.
    ///
    /// # Errors
    /// As [`KanidmError`] says. After one whose outcome is unknown all of them may be there.
    pub async fn create_persons(&self, persons: &[NewPerson]) -> Result<()> {
        let entries: Vec<Value> = persons
            .iter()
            .map(|person| {
                json!({"attrs": {
                    "class": ["object", "account", "person"],
                    "uuid": [person.uuid],
                    "name": [person.name],
                    "displayname": [person.display_name],
                    "mail": [person.mail],
                }})
            })
            .collect();
        let entries = json!({"entries": entries});
        match self.call::<Value>(Method::POST, &["v1", "raw", "create"], Body::Json(&entries)).await {
            Ok(_) => Ok(()),
            // A creation asks for nothing that could be missing, so that this is no verdict on what was sent.
            Err(KanidmError::NotFound) => Err(KanidmError::Refused(404, "nomatchingentries".to_owned())),
            Err(error) => Err(error),
        }
    }

    /// The persons with these uuids. Those that do not exist, or are in the recycle bin, are left out.
    ///
    /// # Errors
    /// As [`KanidmError`] says.
    pub async fn persons(&self, uuids: &[Uuid]) -> Result<HashMap<Uuid, Person>> {
        let mut persons = HashMap::with_capacity(uuids.len());
        for chunk in uuids.chunks(TERMS) {
            let terms = chunk.iter().map(|uuid| json!({"eq": ["uuid", uuid]})).collect();
            for entry in self.search(terms).await? {
                let person = entry.person()?;
                persons.insert(person.uuid, person);
            }
        }
        Ok(persons)
    }

    /// The person with this uuid.
    ///
    /// # Errors
    /// As [`KanidmError`] says.
    pub async fn person(&self, uuid: Uuid) -> Result<Option<Person>> {
        Ok(self.persons(&[uuid]).await?.remove(&uuid))
    }

    /// Whether anybody can sign in as this person, asked for in two ways: the list of credentials knows no passkeys, and
    /// attributes are seen only where access rules show them.
    ///
    /// # Errors
    /// `NotFound` for a person that does not exist; otherwise as [`KanidmError`] says.
    pub async fn has_credential(&self, uuid: Uuid) -> Result<bool> {
        let person = self.person(uuid).await?.ok_or(KanidmError::NotFound)?;
        let id = uuid.to_string();
        let path = ["v1", "person", &id, "_credential", "_status"];
        let listed = match self.call::<Credentials>(Method::GET, &path, Body::None).await {
            Ok(credentials) => !credentials.creds.is_empty(),
            // 1.7 and later answer an empty list; a release that has no list to give says that there is none.
            Err(KanidmError::Refused(_, code)) if code == "nomatchingattributes" => false,
            Err(error) => return Err(error),
        };
        Ok(person.has_credential || listed)
    }

    /// Which of these names and addresses entries have already. Addresses are found only where the service account may
    /// read them.
    ///
    /// # Errors
    /// As [`KanidmError`] says.
    pub async fn taken(&self, names: &[&str], mails: &[&str]) -> Result<UsedNames> {
        let wanted: HashSet<&str> = mails.iter().copied().collect();
        let mut taken = UsedNames::default();
        for chunk in names.chunks(TERMS) {
            let terms = chunk.iter().map(|name| json!({"eq": ["name", name]})).collect();
            for entry in self.search(terms).await? {
                if let Some(name) = entry.first("name") {
                    taken.names.insert(name.to_owned(), entry.uuid()?);
                }
            }
        }
        for chunk in mails.chunks(MAIL_TERMS) {
            let terms: Vec<Value> = chunk.iter().map(|mail| json!({"eq": ["mail", mail]})).collect();
            // Not every server has an index of addresses, and one that has none refuses a search for them alone:
            // 1.11 answers 500 "backend". The class is indexed everywhere, and addresses of groups and programs are
            // in the same space as those of persons.
            let kinds: Vec<Value> =
                ["person", "group", "service_account"].iter().map(|class| json!({"eq": ["class", class]})).collect();
            let with_mail = json!({"and": [{"or": kinds}, {"or": terms}]});
            for entry in self.search_for(with_mail).await? {
                for mail in entry.attrs.get("mail").into_iter().flatten() {
                    if wanted.contains(mail.as_str()) {
                        taken.mails.insert(mail.clone(), entry.uuid()?);
                    }
                }
            }
        }
        Ok(taken)
    }

    /// uuids of the entries in the recycle bin, which stay taken; none where the service account may not look into it.
    ///
    /// # Errors
    /// As [`KanidmError`] says.
    pub async fn recycled(&self) -> Result<HashSet<Uuid>> {
        match self.call::<Vec<Entry>>(Method::GET, &["v1", "recycle_bin"], Body::None).await {
            Ok(entries) => entries.iter().map(Entry::uuid).collect(),
            // Also one that is too full to be read in one answer: then each is found when its time comes.
            Err(error)
                if matches!(error.concern(), Concern::Access | Concern::Entry | Concern::Size | Concern::Unclear) =>
            {
                Ok(HashSet::new())
            }
            Err(error) => Err(error),
        }
    }

    async fn search(&self, terms: Vec<Value>) -> Result<Vec<Entry>> {
        if terms.is_empty() {
            return Ok(Vec::new());
        }
        self.search_for(json!({"or": terms})).await
    }

    pub(super) async fn search_for(&self, filter: Value) -> Result<Vec<Entry>> {
        let query = json!({"filter": filter});
        let found: Found = self.call(Method::POST, &["v1", "raw", "search"], Body::Json(&query)).await?;
        Ok(found.entries)
    }
}

#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing {
    use super::super::client::Answer;
    use super::*;

    /// Reads an answer as entries and as a list of credentials; what it is not, it is not for these reasons.
    pub(in crate::kanidm) fn answers(answer: &Answer) -> Vec<KanidmError> {
        let found = answer.json::<Found>().map(|found| found.entries);
        let entry = answer.json::<Option<Entry>>().map(|entry| entry.into_iter().collect());
        let read = |entries: Vec<Entry>| entries.iter().filter_map(|entry| entry.person().err()).collect::<Vec<_>>();
        let mut errors: Vec<KanidmError> =
            [found, entry].into_iter().flat_map(|e| e.map_or_else(|e| vec![e], read)).collect();
        errors.extend(answer.json::<Credentials>().err());
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(attributes: Value) -> Result<Person> {
        serde_json::from_value::<Entry>(json!({"attrs": attributes})).unwrap().person()
    }

    #[test]
    fn any_kind_of_credential_counts() {
        let uuid = "018f2f6e-7c1b-7c3a-9d5e-0a1b2c3d4e5f";
        assert!(!person(json!({"uuid": [uuid], "name": ["ann"]})).unwrap().has_credential);
        for kind in ["primary_credential", "passkeys", "attested_passkeys"] {
            assert!(person(json!({"uuid": [uuid], kind: ["x"]})).unwrap().has_credential, "{kind}");
        }
    }

    #[test]
    fn an_entry_without_a_uuid_is_nonsense() {
        assert!(matches!(person(json!({"name": ["ann"]})), Err(KanidmError::Nonsense(_))));
        assert!(matches!(person(json!({"uuid": ["ann"]})), Err(KanidmError::Nonsense(_))));
    }
}
