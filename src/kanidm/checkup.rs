//! What can be checked about a Kanidm before it is used.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Body, Credential, Kanidm};
use super::error::{KanidmError, Result};

/// A search by address that takes longer reads every entry.
const SLOW: Duration = Duration::from_millis(500);

/// Whether addresses are found by an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailIndex {
    /// A search took so long.
    Present(Duration),
    /// A search by address was refused, or read everything: it took so long.
    Missing(Duration),
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Checkup {
    /// Release; none where Kanidm does not say.
    pub version: Option<String>,
    /// Whether addresses are found by an index.
    pub mail_index: MailIndex,
}

impl Kanidm {
    /// Looks whether it answers, takes the service account's token and has an index of addresses. A fresh server has none
    /// until `kanidmd database reindex`: then each batch with a taken address reads all persons, once for every entry.
    ///
    /// # Errors
    /// As [`KanidmError`] says, where it does not answer or does not take the token.
    pub async fn checkup(&self) -> Result<Checkup> {
        let url = self.url(&["v1", "self"]);
        let answer = self.send(Method::GET, url, Credential::ServiceAccount, Body::None).await?;
        answer.json::<Value>()?;
        let since = self.clock().stopwatch();
        // For the address alone, as Kanidm itself asks when it makes sure that an address is unique.
        let found = self.search_for(json!({"eq": ["mail", "nobody@sidle.invalid"]})).await;
        let took = since.elapsed();
        let mail_index = match found {
            Ok(_) if took < SLOW => MailIndex::Present(took),
            Ok(_) | Err(KanidmError::Failing(_) | KanidmError::TooMuch) => MailIndex::Missing(took),
            Err(error) => return Err(error),
        };
        Ok(Checkup { version: answer.version, mail_index })
    }
}
