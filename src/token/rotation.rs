//! What becomes of signing keys in the course of time: a new one is published, takes over when every verifier has had time to
//! fetch it, and is accepted until the last token it signed has expired. One that leaked is refused immediately.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sidle_token::{Algorithm, Jwk};
use uuid::Uuid;

use super::keys::{KeyState, MARGIN, SigningKey, SigningKeyManager, due, seal_context};
use super::signing::PrivateKey;
use super::store::keys as store;
use crate::access::Call;
use crate::audit::{Event, EventType};
use crate::db::{Connection, Scope};
use crate::fault::{Fault, Reason, Result};

/// A key that was made and is not stored yet.
pub struct FreshKey {
    kid: Uuid,
    private: PrivateKey,
}

/// How keys are to be rotated.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// How long the new key is published before it signs; as configured when not said.
    pub lead: Option<Duration>,
    /// Which keys are refused from now on.
    pub revoke: Revoke,
}

/// Which keys are refused from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoke {
    /// None: their tokens run out.
    Nothing,
    /// Every key that there is.
    Previous,
    /// These. Without the active one among them no new key is made.
    These(Vec<Uuid>),
}

/// A key as administrators see it.
#[derive(Clone, Debug)]
pub struct KeyView {
    pub kid: Uuid,
    pub algorithm: String,
    /// Where it stands in its life.
    pub state: KeyState,
    /// Public half; none once it is retired.
    pub public: Option<Jwk>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it begins to sign.
    pub activates_at: DateTime<Utc>,
    /// When it ceases to sign.
    pub retires_at: Option<DateTime<Utc>>,
    /// When its tokens are refused.
    pub expires_at: Option<DateTime<Utc>>,
}

/// What a rotation did.
#[derive(Clone, Debug)]
pub struct Rotated {
    /// The new key, or the active one where none was made.
    pub key: KeyView,
    /// The keys that were there before.
    pub previous: Vec<KeyView>,
    /// The keys that are refused from now on.
    pub revoked: Vec<Uuid>,
}

impl SigningKeyManager {
    /// Makes a key for [`SigningKeyManager::rotate`], without blocking other calls.
    ///
    /// # Errors
    /// When it cannot be made; `OVERLOADED` while another is made.
    pub async fn generate(&self, algorithm: Option<Algorithm>) -> Result<FreshKey> {
        let making = Arc::clone(&self.making).try_lock_owned().map_err(|_| {
            Fault::new(Reason::Overloaded, "Another signing key is being made.").retry_after(Duration::from_secs(2))
        })?;
        let (kid, entropy) = (self.context.new_id(), self.context.entropy.clone());
        let (algorithm, bits) = (algorithm.unwrap_or(self.config.algorithm), self.config.rsa_bits);
        let made = tokio::task::spawn_blocking(move || {
            let _making = making;
            PrivateKey::generate(algorithm, bits, &entropy)
        });
        Ok(FreshKey { kid, private: made.await.map_err(Fault::internal)?? })
    }

    /// Rotates in the transaction of the call. [`SigningKeyManager::took_effect`] is to follow the commit.
    ///
    /// # Errors
    /// `INVALID_FIELD` for a key to revoke that is not in use.
    pub async fn rotate(
        &self,
        tx: &mut Connection,
        call: &Call,
        fresh: FreshKey,
        session_request: &Rotation,
    ) -> Result<Rotated> {
        store::lock(tx).await?;
        let now = self.context.now();
        let before = store::usable(tx).await?;
        let revoked: Vec<Uuid> = match &session_request.revoke {
            Revoke::Nothing => Vec::new(),
            Revoke::Previous => before.iter().map(|row| row.kid).collect(),
            Revoke::These(kids) => kids.clone(),
        };
        if revoked.iter().any(|kid| !before.iter().any(|row| row.kid == *kid)) {
            return Err(Fault::field("revoke_key_ids", "must hold ids of keys that sign or are accepted"));
        }
        let event = |kind, kid: Uuid| Event::new(kind, call).tenant(None).target("signing_key", kid);
        let active = before.iter().find(|row| row.state == KeyState::Active).map(|row| row.kid);
        let mut kid = active.unwrap_or(fresh.kid);
        let leaked = active.is_none_or(|active| revoked.contains(&active));
        if leaked || !matches!(session_request.revoke, Revoke::These(_)) {
            kid = fresh.kid;
            let lead = if leaked { Duration::ZERO } else { session_request.lead.unwrap_or(self.config.rotation_lead) };
            self.add(tx, fresh, lead, now, event).await?;
            if lead.is_zero() {
                self.take_over(tx, kid, now, event).await?;
            }
        }
        for kid in store::retire(tx, &revoked, "revoked", now).await? {
            self.recorder.record(tx, event(EventType::SigningKeyRetired, kid).reason("revoked")).await?;
        }
        let mut after = self.views(store::list(tx, Uuid::max(), true, i64::MAX).await?)?;
        let key = after.iter().find(|view| view.kid == kid).cloned();
        let key = key.ok_or_else(|| Fault::internal("the new signing key is not there"))?;
        after.retain(|view| view.kid != kid && before.iter().any(|row| row.kid == view.kid));
        Ok(Rotated { key, previous: after, revoked })
    }

    /// Has this replica go by what was committed, without waiting for the log.
    pub async fn took_effect(&self) {
        // The log brings it anyhow.
        let _ = self.read().await;
    }

    /// Keys older than `before`, the newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(
        &self,
        tx: &mut Connection,
        before: Option<Uuid>,
        retired: bool,
        limit: i64,
    ) -> Result<Vec<KeyView>> {
        self.views(store::list(tx, before.unwrap_or(Uuid::max()), retired, limit).await?)
    }

    /// Makes the first key, unless another replica does.
    pub(super) async fn create_first(&self) -> Result<()> {
        let fresh = self.generate(None).await?;
        let mut tx = self.db.begin(Scope::Platform).await?;
        store::lock(&mut tx).await?;
        if !store::usable(&mut tx).await?.iter().any(|row| row.state == KeyState::Active) {
            let (kid, now) = (fresh.kid, self.context.now());
            self.add(&mut tx, fresh, Duration::ZERO, now, by_system).await?;
            store::activate(&mut tx, kid, now).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Changes the keys whose time has come. Of several replicas that come to it one does.
    pub(super) async fn advance(&self) -> Result<()> {
        let now = self.context.now();
        let is_old = |key: &SigningKey| key.state == KeyState::Active && key.due.is_some_and(|due| due <= now);
        // Before anything is locked: it may take seconds.
        let mut fresh = None;
        if self.keys.all().iter().any(|key| is_old(key)) {
            fresh = Some(self.generate(None).await?);
        }
        let mut tx = self.db.begin(Scope::Platform).await?;
        store::lock(&mut tx).await?;
        let rows = store::usable(&mut tx).await?;
        let due = due(&rows, self.config.rotate_after);
        for row in rows.iter().filter(|row| due(row).is_some_and(|due| due <= now)) {
            match row.state {
                KeyState::Pending => self.take_over(&mut tx, row.kid, now, by_system).await?,
                KeyState::Active => {
                    if let Some(fresh) = fresh.take() {
                        self.add(&mut tx, fresh, self.config.rotation_lead, now, by_system).await?;
                    }
                }
                KeyState::Retiring | KeyState::Retired => {
                    for kid in store::retire(&mut tx, &[row.kid], "expired", now).await? {
                        let event = by_system(EventType::SigningKeyRetired, kid).reason("expired");
                        self.recorder.record(&mut tx, event).await?;
                    }
                }
            }
        }
        tx.commit().await
    }

    /// Publishes a new key, in place of one that is published and does not sign yet.
    async fn add(
        &self,
        tx: &mut Connection,
        fresh: FreshKey,
        lead: Duration,
        now: DateTime<Utc>,
        event: impl Fn(EventType, Uuid) -> Event,
    ) -> Result<()> {
        let waiting = store::usable(tx).await?.into_iter().filter(|row| row.state == KeyState::Pending);
        let waiting: Vec<Uuid> = waiting.map(|row| row.kid).collect();
        for kid in store::retire(tx, &waiting, "superseded", now).await? {
            self.recorder.record(tx, event(EventType::SigningKeyRetired, kid).reason("superseded")).await?;
        }
        let (kid, algorithm) = (fresh.kid, fresh.private.algorithm().as_str());
        let sealed = self.keyring.seal(&self.context.entropy, seal_context(kid), &fresh.private.to_pkcs8()?);
        let activates_at = now + TimeDelta::from_std(lead).map_err(Fault::internal)?;
        store::insert(tx, kid, algorithm, &sealed, now, activates_at).await?;
        let created = event(EventType::SigningKeyCreated, kid).detail("algorithm", algorithm);
        self.recorder.record(tx, created.detail("activates_at", activates_at.timestamp_micros())).await?;
        Ok(())
    }

    /// Has a published key sign in place of the one that does.
    async fn take_over(
        &self,
        tx: &mut Connection,
        kid: Uuid,
        now: DateTime<Utc>,
        event: impl Fn(EventType, Uuid) -> Event,
    ) -> Result<()> {
        // Until the last token has expired that a replica may have signed which learns of this late.
        let overlap = TimeDelta::from_std(self.config.access_lifetime + MARGIN).map_err(Fault::internal)?;
        let previous = store::retire_active(tx, now, now + overlap).await?;
        store::activate(tx, kid, now).await?;
        self.recorder.record(tx, event(EventType::SigningKeyRotated, kid).detail("previous", previous)).await?;
        Ok(())
    }

    fn views(&self, rows: Vec<store::Row>) -> Result<Vec<KeyView>> {
        let next = rows.iter().find(|row| row.state == KeyState::Pending).map(|row| row.activates_at);
        let view = |row: store::Row| {
            let public = match row.state {
                KeyState::Retired => None,
                _ => {
                    let private = self.keyring.open(seal_context(row.kid), &row.private_key)?;
                    Some(SigningKey::new(row.kid, row.state, &row.algorithm, &private)?.public().clone())
                }
            };
            Ok(KeyView {
                kid: row.kid,
                algorithm: row.algorithm,
                state: row.state,
                public,
                created_at: row.created_at,
                activates_at: row.activates_at,
                retires_at: row.retiring_at.or(next.filter(|_| row.state == KeyState::Active)),
                expires_at: row.expires_at,
            })
        };
        rows.into_iter().map(view).collect()
    }
}

fn by_system(kind: EventType, kid: Uuid) -> Event {
    Event::by_system(kind, kid).target("signing_key", kid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(state: KeyState, activates_at: i64, expires_at: Option<i64>) -> store::Row {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        store::Row {
            kid: Uuid::nil(),
            algorithm: "EdDSA".to_owned(),
            state,
            private_key: Vec::new(),
            created_at: at(0),
            activates_at: at(activates_at),
            retiring_at: None,
            expires_at: expires_at.map(at),
        }
    }

    #[test]
    fn each_key_knows_when_its_time_comes() {
        let day = Duration::from_secs(86_400);
        let seconds = |rows: &[store::Row], after| {
            let due = due(rows, after);
            rows.iter().map(|row| due(row).map(|at| at.timestamp())).collect::<Vec<_>>()
        };
        let mut rows = vec![row(KeyState::Active, 100, None), row(KeyState::Retiring, 0, Some(900))];
        assert_eq!(seconds(&rows, None), [None, Some(900)]);
        assert_eq!(seconds(&rows, Some(day)), [Some(86_500), Some(900)]);
        rows.push(row(KeyState::Pending, 700, None));
        assert_eq!(seconds(&rows, Some(day)), [None, Some(900), Some(700)], "a rotation is under way already");
    }
}
