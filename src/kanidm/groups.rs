//! Groups: made with a uuid that was recorded beforehand, and recognised by nothing else.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::client::{Body, Kanidm};
use super::error::{KanidmError, Result};
use super::persons::{Entry, TERMS};

/// A group as Kanidm has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub uuid: Uuid,
    pub name: String,
    /// Names with domain of the members; Kanidm does not return their uuids.
    pub members: Vec<String>,
}

impl Kanidm {
    /// The group with this name or uuid.
    ///
    /// # Errors
    /// As [`super::KanidmError`] says.
    pub async fn group(&self, name_or_uuid: &str) -> Result<Option<Group>> {
        let entry: Option<Entry> = self.call(Method::GET, &["v1", "group", name_or_uuid], Body::None).await?;
        entry
            .map(|entry| {
                Ok(Group {
                    uuid: entry.uuid()?,
                    name: entry.first("name").unwrap_or_default().to_owned(),
                    members: entry.attrs.get("member").cloned().unwrap_or_default(),
                })
            })
            .transpose()
    }

    /// Creates a group with this uuid.
    ///
    /// # Errors
    /// `Duplicate` when the name is taken, `UuidTaken` when the uuid is; otherwise as [`super::KanidmError`] says.
    pub async fn create_group(&self, uuid: Uuid, name: &str, description: &str) -> Result<()> {
        let group = json!({"attrs": {"uuid": [uuid], "name": [name], "description": [description]}});
        self.call::<Value>(Method::POST, &["v1", "group"], Body::Json(&group)).await?;
        Ok(())
    }

    /// Puts persons into a group. Those who are in it already stay in it.
    ///
    /// # Errors
    /// `NotFound` when there is no such group, `ReferenceMissing` when one of the persons does not exist; otherwise as
    /// [`super::KanidmError`] says.
    pub async fn add_members(&self, group: Uuid, persons: &[Uuid]) -> Result<()> {
        let (id, members) = (group.to_string(), json!(persons));
        self.call::<Value>(Method::POST, &["v1", "group", &id, "_attr", "member"], Body::Json(&members)).await?;
        Ok(())
    }

    /// uuids of the groups that a person is in, directly or through others; empty where they may not be read.
    ///
    /// # Errors
    /// As [`super::KanidmError`] says.
    pub async fn groups_of(&self, person: Uuid) -> Result<Vec<Uuid>> {
        let person = self.search_for(json!({"eq": ["uuid", person]})).await?;
        let names = person.first().and_then(|entry| entry.attrs.get("memberof")).cloned().unwrap_or_default();
        let mut groups = Vec::with_capacity(names.len());
        for chunk in names.chunks(TERMS) {
            let terms: Vec<Value> = chunk.iter().map(|spn| json!({"eq": ["spn", spn]})).collect();
            for group in self.search_for(json!({"or": terms})).await? {
                groups.push(group.uuid()?);
            }
        }
        // One that cannot be found again could be any.
        if groups.len() == names.len() { Ok(groups) } else { Err(KanidmError::AccessDenied) }
    }
}
