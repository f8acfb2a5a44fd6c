//! Database functions: which of them a run has to apply or to drop, and doing so inside of its transaction.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::files::FunctionFile;
use super::step::Failure;
use super::store::{self, Recorded};
use crate::fault::Fault;

/// What makes the functions of a database those that are wanted.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Functions that go, by name, with their signatures.
    drop: Vec<(String, String)>,
    /// Files whose text the database does not have.
    apply: Vec<FunctionFile>,
    /// Signatures from before.
    signatures: BTreeMap<String, String>,
}

impl Changes {
    /// What leads from the functions that the database has to those of a release.
    pub fn up(files: &[FunctionFile], present: &BTreeMap<String, Recorded>) -> Self {
        let is_wanted = |name: &String| files.iter().any(|file| file.name == *name);
        Self {
            drop: going(present, is_wanted),
            apply: files.iter().filter(|file| !has(present, file)).cloned().collect(),
            signatures: signatures(present),
        }
    }

    /// What leads back from the functions that the database has to those that it had.
    pub fn back(past: &BTreeMap<String, Recorded>, present: &BTreeMap<String, Recorded>) -> Self {
        let file = |(name, recorded): (&String, &Recorded)| FunctionFile {
            name: name.clone().into(),
            path: format!("the text of {name} from before").into(),
            sql: recorded.sql.clone().into(),
        };
        Self {
            drop: going(present, |name| past.contains_key(name)),
            apply: past.iter().map(file).filter(|file| !has(present, file)).collect(),
            signatures: signatures(present),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.drop.is_empty() && self.apply.is_empty()
    }

    /// Files to apply, as paths below `migrations/`.
    pub fn files(&self) -> Vec<String> {
        self.apply.iter().map(|file| file.path.clone().into_owned()).collect()
    }

    /// Names of the functions to drop.
    pub fn dropped(&self) -> Vec<String> {
        self.drop.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Drops what goes. A policy or a default that needs one of them keeps it, and the step fails.
    pub async fn drop(&self, tx: &mut PgConnection) -> Result<(), Failure> {
        for (name, signature) in &self.drop {
            let failed = |error| Failure::sql(format!("dropping function {name}"), error);
            for (_, statement) in store::triggers(tx, signature).await.map_err(failed)? {
                store::run(tx, &statement).await.map_err(failed)?;
            }
            store::run(tx, &format!("DROP FUNCTION IF EXISTS {signature}")).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Applies the files, in the order of their names: what one of them names may be made by a later one.
    pub async fn apply(&self, tx: &mut PgConnection) -> Result<BTreeMap<&str, String>, Failure> {
        let mut made = BTreeMap::new();
        if self.apply.is_empty() {
            return Ok(made);
        }
        store::skip_checks_of_bodies(tx).await.map_err(|error| Failure::sql("functions", error))?;
        for file in &self.apply {
            let failed = |error| Failure::sql(&*file.path, error);
            store::run(tx, &file.sql).await.map_err(failed)?;
            let signature = self.signature(file, store::signatures(tx, &file.name).await.map_err(failed)?)?;
            for (name, drop) in store::triggers(tx, &signature).await.map_err(failed)? {
                // One that the file made before and names no more.
                if !file.sql.contains(&format!(" TRIGGER {name} ")) && !file.sql.contains(&format!(" TRIGGER {name}\n"))
                {
                    store::run(tx, &drop).await.map_err(failed)?;
                }
            }
            made.insert(file.name.as_ref(), signature);
        }
        Ok(made)
    }

    /// Records what was done as the functions of a version.
    pub async fn record(&self, tx: &mut PgConnection, version: i64, made: &BTreeMap<&str, String>) -> sqlx::Result<()> {
        store::begin_set(tx, version).await?;
        for (name, _) in &self.drop {
            store::record_dropped(tx, version, name).await?;
        }
        for file in &self.apply {
            let signature = made.get(file.name.as_ref()).map_or("", String::as_str);
            store::record_function(tx, version, file, signature).await?;
        }
        Ok(())
    }

    /// The one function of a file. Another signature would make a second function beside the one that the release before
    /// calls, and a call with fewer arguments would get either.
    fn signature(&self, file: &FunctionFile, mut found: Vec<String>) -> Result<String, Fault> {
        if found.is_empty() {
            return Err(Fault::internal(format!("{} does not make a function {}", file.path, file.name)));
        }
        found.extend(self.signatures.get(file.name.as_ref()).cloned());
        found.dedup();
        if found.len() > 1 {
            return Err(Fault::internal(format!(
                "{} changes the arguments of {}: {}. A function with other arguments needs another name",
                file.path,
                file.name,
                found.join(" and "),
            )));
        }
        Ok(found.swap_remove(0))
    }
}

/// The first file of a release whose text a database does not have.
pub(super) fn missing<'a>(files: &'a [FunctionFile], present: &BTreeMap<String, Recorded>) -> Option<&'a FunctionFile> {
    files.iter().find(|file| !has(present, file))
}

/// The first file of a release whose function a database does not have, in whatever text.
pub(super) fn unknown<'a>(files: &'a [FunctionFile], present: &BTreeMap<String, Recorded>) -> Option<&'a FunctionFile> {
    files.iter().find(|file| !present.get(file.name.as_ref()).is_some_and(|recorded| recorded.is_there))
}

fn has(present: &BTreeMap<String, Recorded>, file: &FunctionFile) -> bool {
    present.get(file.name.as_ref()).is_some_and(|recorded| recorded.is_there && recorded.checksum == file.checksum())
}

fn going(present: &BTreeMap<String, Recorded>, stays: impl Fn(&String) -> bool) -> Vec<(String, String)> {
    let going = present.iter().filter(|(name, _)| !stays(name));
    going.map(|(name, recorded)| (name.clone(), recorded.signature.clone())).collect()
}

fn signatures(present: &BTreeMap<String, Recorded>) -> BTreeMap<String, String> {
    present.iter().map(|(name, recorded)| (name.clone(), recorded.signature.clone())).collect()
}
