//! Boots the Kanidm engine and runs one operation per transaction against it. Nothing here knows HTTP.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kanidm_proto::v1::AuthRequest;
use kanidmd_lib::be::{Backend, BackendConfig};
use kanidmd_lib::idm::delayed::DelayedAction;
use kanidmd_lib::idm::event::{AuthEvent, AuthResult};
use kanidmd_lib::idm::server::{IdmServerProxyReadTransaction, IdmServerProxyWriteTransaction, IdmServerTransaction};
use kanidmd_lib::prelude::*;
use kanidmd_lib::schema::Schema;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

pub type Fallible<T> = Result<T, OperationError>;

/// Passwords of the two built-in administrators, as a `kanidmd recover-account` would print them.
#[derive(Clone, Serialize, Deserialize)]
pub struct Passwords {
    pub admin: String,
    pub idm_admin: String,
}

/// Wall time plus whatever the tests have added to it.
#[derive(Default)]
pub struct Clock(AtomicU64);

impl Clock {
    pub fn now(&self) -> Duration {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        wall + Duration::from_secs(self.0.load(Ordering::SeqCst))
    }

    /// False if the sum would leave the range the engine can represent.
    pub fn advance(&self, seconds: u64) -> bool {
        const CENTURY: u64 = 100 * 365 * 24 * 3600;
        self.0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |offset| {
                offset.checked_add(seconds).filter(|sum| *sum < CENTURY)
            })
            .is_ok()
    }
}

pub struct Engine {
    pub idms: IdmServer,
    pub clock: Clock,
    delayed: Mutex<IdmServerDelayed>,
    // Held so that the engine's audit channel stays open; it is not read here.
    _audit: IdmServerAudit,
}

impl Engine {
    /// Ready when it returns: schema, built-in entries and both administrator passwords are in place.
    pub async fn boot(origin: &Url, state: Option<&Path>) -> Result<(Engine, Passwords), String> {
        if let Some(dir) = state {
            fs::create_dir_all(dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
        }
        let engine = Self::start(origin, state).await.map_err(|e| format!("the engine did not start: {e:?}"))?;
        let file = state.map(|dir| dir.join("passwords.json"));
        if let Some(file) = file.as_deref().filter(|file| file.exists()) {
            let kept = fs::read(file).map_err(|e| format!("cannot read passwords: {e}"))?;
            let kept = serde_json::from_slice(&kept).map_err(|_| format!("{} is not readable", file.display()))?;
            return Ok((engine, kept));
        }
        let passwords = engine
            .set_administrator_passwords()
            .await
            .map_err(|e| format!("administrator passwords could not be set: {e:?}"))?;
        if let Some(file) = file {
            keep(&file, &passwords).map_err(|e| format!("cannot keep passwords: {e}"))?;
        }
        Ok((engine, passwords))
    }

    async fn start(origin: &Url, state: Option<&Path>) -> Fallible<Engine> {
        let clock = Clock::default();
        let now = clock.now();
        let schema = Schema::new()?;
        let database = state.map(|dir| dir.join("kanidm.db"));
        // A database without a path lives in memory and would be a different one for every pooled
        // connection, so there is one connection then.
        let connections = if database.is_some() { 4 } else { 1 };
        let config = BackendConfig::new(database.as_deref(), connections, Default::default(), None);
        let index = schema.write().reload_idxmeta();
        let backend = Backend::new(config, index, false)?;
        let domain = origin.host_str().unwrap_or("localhost").to_string();
        let server = QueryServer::new(backend, schema, domain, now)?;
        server.initialise_helper(now, DOMAIN_TGT_LEVEL).await?;
        // The flag makes password hashes cheap; it changes nothing else in the engine.
        let (idms, delayed, audit) = IdmServer::new(server, origin, true, now).await?;
        Ok(Engine { idms, clock, delayed: Mutex::new(delayed), _audit: audit })
    }

    async fn set_administrator_passwords(&self) -> Fallible<Passwords> {
        let mut txn = self.idms.proxy_write(self.clock.now()).await?;
        let passwords = Passwords {
            admin: txn.recover_account("admin", None)?,
            idm_admin: txn.recover_account("idm_admin", None)?,
        };
        txn.commit()?;
        Ok(passwords)
    }

    /// One read by an authenticated caller.
    pub async fn read<T>(
        &self,
        caller: ClientAuthInfo,
        operation: impl FnOnce(Identity, &mut IdmServerProxyReadTransaction<'_>) -> Fallible<T>,
    ) -> Fallible<T> {
        let now = self.clock.now();
        let mut txn = self.idms.proxy_read().await?;
        let ident = txn.validate_client_auth_info_to_ident(caller, now)?;
        operation(ident, &mut txn)
    }

    /// One write by an authenticated caller: committed if the operation succeeds, else without effect.
    pub async fn write<T>(
        &self,
        caller: ClientAuthInfo,
        operation: impl FnOnce(Identity, &mut IdmServerProxyWriteTransaction<'_>, Duration) -> Fallible<T>,
    ) -> Fallible<T> {
        let now = self.clock.now();
        let mut txn = self.idms.proxy_write(now).await?;
        let ident = txn.validate_client_auth_info_to_ident(caller, now)?;
        let done = operation(ident, &mut txn, now)?;
        txn.commit()?;
        Ok(done)
    }

    /// One step of a sign-in. What the engine defers (recording the session) is done before the answer,
    /// so that a test never races with it.
    pub async fn auth(
        &self,
        session: Option<Uuid>,
        request: AuthRequest,
        caller: ClientAuthInfo,
    ) -> Fallible<AuthResult> {
        let now = self.clock.now();
        let event = AuthEvent::from_message(session, request)?;
        let result = {
            let mut txn = self.idms.auth().await?;
            txn.expire_auth_sessions(now).await;
            let result = txn.auth(&event, now, caller).await?;
            txn.commit()?;
            result
        };
        self.settle(now).await?;
        Ok(result)
    }

    async fn settle(&self, now: Duration) -> Fallible<()> {
        let mut queue = self.delayed.lock().await;
        let mut actions: Vec<DelayedAction> = Vec::with_capacity(64);
        loop {
            tokio::select! {
                biased;
                _ = queue.recv_many(&mut actions) => {}
                () = std::future::ready(()) => return Ok(()),
            }
            if actions.is_empty() {
                return Ok(());
            }
            let mut txn = self.idms.proxy_write(now).await?;
            for action in actions.drain(..) {
                txn.process_delayedaction(&action, now)?;
            }
            txn.commit()?;
        }
    }
}

fn keep(file: &Path, passwords: &Passwords) -> std::io::Result<()> {
    let mut out = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    out.write_all(&serde_json::to_vec(passwords)?)?;
    out.sync_all()
}
