//! The one place that wires everything: from the configuration to running servers.

mod check;
mod seal;
mod services;

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;

pub use self::check::{Checked, check};
pub use self::seal::check as check_sealing_keys;
use self::services::Services;
use crate::access::live::Admission;
use crate::access::paging::Paging;
use crate::audit::{Feed, Log, Recorder, Sequencer, Streams};
use crate::authenticate::{Authenticate, StepUps};
use crate::config::Config;
use crate::context::Context;
use crate::credential::{Hasher, Policy};
use crate::db::Db;
use crate::directory::Directory;
use crate::fault::{Fault, Result};
use crate::kanidm::{Kanidm, Oidc};
use crate::mail::{Mailer, Outbox, Worker};
use crate::metrics::Metrics;
use crate::migration::Engine;
use crate::schema::{Schema, require_current};
use crate::server::authentication::Gate;
use crate::server::certificates::Certificates;
use crate::server::{self, Authorities, Bounds, Denials, Edge, Ops, Port};
use crate::session::{Rechecks, Sessions};
use crate::shared::Core;
use crate::startup;
use crate::token::Verifier;
use crate::{audit, authenticate, directory, migration, session};

/// Health as `grpc.health.v1` reports it.
#[derive(Clone)]
pub struct Health {
    /// The service that answers.
    pub service: HealthServer<HealthService>,
    reporter: tonic_health::server::HealthReporter,
}

/// Everything that the services work with, made once.
#[derive(Clone)]
pub struct App {
    pub config: Arc<Config>,
    /// What most services are made of.
    pub core: Core,
    /// Connections that calls cannot exhaust.
    pub reserved: Reserved,
    /// The live end of the audit log.
    pub feed: Feed,
    /// Reads the audit log.
    pub log: Log,
    /// The client of Kanidm, where one is configured.
    pub kanidm: Option<Kanidm>,
    /// Kanidm as an OpenID provider.
    pub oidc: Option<Oidc>,
    /// Hashes passwords.
    pub hasher: Hasher,
    /// Sessions and their tokens.
    pub sessions: Sessions,
    /// Authentication methods.
    pub authenticate: Authenticate,
    /// Asks sensitive calls for a fresh proof.
    pub step_ups: StepUps,
    /// Users, tenants, roles, memberships, service accounts.
    pub directory: Directory,
    /// Checks access tokens.
    pub verifier: Verifier,
    /// Moves users to Kanidm, where there is one.
    pub engine: Option<Engine>,
    pub health: Health,
    /// Cancelled when the service is to stop.
    pub stop: CancellationToken,
}

/// What every service shares is the app's as well.
impl Deref for App {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

/// Reserved connections for what must go on when calls have exhausted theirs.
#[derive(Clone)]
pub struct Reserved {
    /// The sequencer's.
    pub sequencer: Db,
    /// Those of the audit log's live end.
    pub feed: Db,
    /// What readiness asks with.
    pub health: Db,
    /// Whether callers of open streams are still authorised.
    pub streams: Db,
}

/// A service that runs.
pub struct Running {
    /// Address of the gRPC port.
    pub grpc_address: SocketAddr,
    /// Address of the HTTP port for operators.
    pub ops_address: SocketAddr,
    /// Address of the public HTTP port, where there is one.
    pub public_address: Option<SocketAddr>,
    /// What it was made of.
    pub app: App,
    tasks: JoinSet<Result<()>>,
}

impl App {
    /// Makes everything. Talks to the database only for what must be there before the first call.
    ///
    /// # Errors
    /// When a setting is not usable.
    pub async fn new(config: Config, context: Context) -> startup::Result<Self> {
        // Several crates bring a provider along; this one is used. An error means that it was chosen before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = Arc::new(config);
        let core = core(&config, context)?;
        let Core { db, context, metrics, .. } = &core;
        let (sequencer, feed, health, streams) = (db.reserved(1)?, db.reserved(2)?, db.reserved(1)?, db.reserved(1)?);
        let reserved = Reserved { sequencer, feed, health, streams };
        let feed = Feed::new(reserved.feed.clone(), context.clone(), core.recorder.clone(), metrics.clone());
        let log = Log::new(db.clone(), feed.clone());
        let kanidm = Kanidm::new(&config.kanidm, context.clock.clone(), metrics.clone())?;
        let oidc = kanidm.clone().map(|kanidm| Oidc::new(kanidm, &config.kanidm, context.clone())).transpose()?;
        let hasher = Hasher::new(config.passwords.clone(), &config.throttle, context.clone(), metrics.clone())?;
        let policy = Policy::new(&config.passwords)?;
        let sessions = Sessions::new(core.clone(), (&*config).into(), oidc.clone())?;
        let authenticate = Authenticate::new(
            core.clone(),
            (&*config).into(),
            sessions.clone(),
            hasher.clone(),
            policy.clone(),
            kanidm.clone(),
            oidc.clone(),
        );
        let engine =
            kanidm.as_ref().map(|kanidm| Engine::new(core.clone(), kanidm.patient(), config.migration.clone()));
        let directory = Directory::new(
            core.clone(),
            &sessions,
            &authenticate,
            hasher.clone(),
            policy,
            kanidm.clone(),
            &config.api_keys,
        );
        Ok(Self {
            verifier: sessions.verifier.clone(),
            step_ups: authenticate.step_ups(),
            health: Health::new(),
            stop: CancellationToken::new(),
            config,
            core,
            reserved,
            feed,
            log,
            kanidm,
            oidc,
            hasher,
            sessions,
            authenticate,
            directory,
            engine,
        })
    }

    /// Takes the ports, starts the workers, and serves in the background.
    ///
    /// # Errors
    /// When a port is taken, or what must be loaded before the first call cannot be.
    pub async fn start(self) -> startup::Result<Running> {
        let settings = &self.config.server;
        let grpc = server::bind("server.grpc_address", settings.grpc_address).await?;
        let ops = server::bind("server.ops_address", settings.ops_address).await?;
        let (grpc_address, ops_address) = (grpc.address, ops.address);
        let mailer = Mailer::new(&self.config.mail)?;
        let authorities = Authorities::load(settings).await?;
        let bounds = Bounds::of(settings).await;
        let port = Port::new(grpc, bounds, settings, self.context.clock.clone(), self.metrics.clone()).await?;
        let mut tasks = JoinSet::new();
        let mut public_address = None;
        if let Some(address) = settings.public_address {
            let public = server::bind("server.public_address", address).await?;
            public_address = Some(public.address);
            tasks.spawn(server::serve_public(public, bounds, self.ops(), self.stop.clone()));
        }
        tasks.spawn(server::serve_ops(ops, bounds, self.ops(), self.stop.clone()));
        self.prepare_database().await?;
        self.start_workers(&mut tasks, mailer).await?;
        let router = self.router(authorities)?;
        self.health.serving().await;
        let (config, stop) = (Arc::clone(&self.config), self.stop.clone());
        tasks.spawn(async move { port.serve(&config.server, router, stop).await });
        Ok(Running { grpc_address, ops_address, public_address, app: self, tasks })
    }

    /// Migrates the schema where that is configured, and checks that the database can be worked with.
    async fn prepare_database(&self) -> startup::Result<()> {
        if self.config.database.migrate_on_start {
            let mut schema = Schema::connect(&self.config.database, self.context.clock.clone()).await?;
            schema.up(false).await?;
        }
        self.db.reach().await?;
        self.db.check().await?;
        require_current(&self.db).await?;
        tracing::info!(event = "database_connection_test_passed", "the database answers and has this release's schema");
        seal::check(&self.db, &self.keyring, &self.config.seal).await?;
        tracing::info!(event = "database_initialized", "the sealing keys are those of the database");
        Ok(())
    }

    /// Every service behind the edge.
    fn router(&self, authorities: Authorities) -> Result<Router> {
        let Config { server, tokens, .. } = &*self.config;
        let gate = Gate {
            verifier: self.verifier.clone(),
            certificates: Certificates::new(self.db.clone(), self.context.clone(), tokens.access_lifetime),
            audience: tokens.audience.as_str().into(),
            open_reflection: server.open_reflection,
        };
        let denials = Denials::new(self.db.clone(), self.recorder.clone(), self.context.clock.clone());
        let edge = Edge::new(server, self.context.clone(), self.metrics.clone(), (gate, authorities), denials);
        Ok(edge.wrap(self.services().register(server.max_message_bytes).map_err(Fault::internal)?))
    }

    /// What the HTTP ports show.
    fn ops(&self) -> Ops {
        Ops {
            server: Arc::new(self.config.server.clone()),
            max_revocation_age: self.config.tokens.max_revocation_age,
            clock: self.context.clock.clone(),
            metrics: self.metrics.clone(),
            db: self.db.clone(),
            health: self.reserved.health.clone(),
            verifier: self.verifier.clone(),
            kanidm: self.kanidm.clone(),
            stop: self.stop.clone(),
        }
    }

    /// What open streams ask whether their callers are still authorised.
    fn admission(&self) -> Admission {
        let verifier = self.verifier.clone();
        let rechecks = Rechecks::new(self.reserved.streams.clone(), self.context.clone());
        let in_database = move |call| {
            let rechecks = rechecks.clone();
            async move { rechecks.recheck(call).await }
        };
        let (clock, bound) = (self.context.clock.clone(), self.verifier.revocation_bound());
        Admission::new(move |call| verifier.recheck_stream(call), in_database, clock, bound)
    }

    pub(crate) fn services(&self) -> Services {
        let streams = Streams::new(self.log.clone(), self.admission());
        let Core { context, keyring, paging, .. } = self.core.clone();
        let (core, step_ups, kanidm) = (self.core.clone(), self.step_ups.clone(), self.kanidm.clone());
        let migration =
            migration::Service::new(core, &self.sessions, streams.clone(), step_ups, kanidm, self.engine.as_ref());
        Services {
            authenticate: authenticate::Service::new(self.authenticate.clone()),
            session: session::Service::new(self.sessions.clone(), streams.clone()),
            directory: directory::Service::new(self.directory.clone(), paging.clone()),
            audit: audit::Service::new(context, keyring, paging, streams),
            migration,
            health: self.health.service.clone(),
        }
    }

    /// What runs beside the calls: each ends when `stop` is cancelled.
    async fn start_workers(&self, tasks: &mut JoinSet<Result<()>>, mailer: Option<Mailer>) -> startup::Result<()> {
        tasks.spawn(finish(self.db.clone().upkeep(self.stop.clone())));
        let (db, context, keyring) = (self.reserved.sequencer.clone(), self.context.clone(), self.keyring.clone());
        let sequencer =
            Sequencer::new(db, context, keyring, self.recorder.clone(), self.feed.clone(), self.metrics.clone());
        tasks.spawn(finish(sequencer.run(self.stop.clone())));
        tasks.spawn(finish(self.feed.clone().run(self.stop.clone())));
        // Calls cannot exhaust these connections: revocations become known whatever calls do.
        let log = Log::new(self.reserved.feed.clone(), self.feed.clone());
        let kept = self.sessions.start(&log, self.metrics.clone(), self.stop.clone()).await?;
        tasks.spawn(finish(kept));
        tasks.spawn(finish(self.authenticate.clone().purge_expired(self.stop.clone())));
        let mail = &self.config.mail;
        match mailer {
            Some(mailer) => {
                let (db, context, keyring) = (self.db.clone(), self.context.clone(), self.keyring.clone());
                let worker =
                    Worker::new(db, context, keyring, self.metrics.clone(), &self.outbox, mailer, mail.clone());
                tasks.spawn(finish(worker.run(self.stop.clone())));
                tasks.spawn(finish(self.authenticate.clone().answer_mail(self.stop.clone())));
            }
            None => tracing::warn!(
                event = "mail_not_configured",
                "there is no mail server: nobody is told of changes to their credentials, and nobody can register"
            ),
        }
        if let Some(oidc) = self.oidc.clone() {
            tasks.spawn(finish(oidc.keep_current(self.stop.clone())));
        }
        if let Some(engine) = self.engine.clone() {
            tasks.spawn(finish(engine.run(self.stop.clone())));
        }
        Ok(())
    }
}

/// A worker that can only end by being stopped, as a task that could fail.
async fn finish(work: impl Future<Output = ()>) -> Result<()> {
    work.await;
    Ok(())
}

/// What every service is made of.
fn core(config: &Config, context: Context) -> startup::Result<Core> {
    let keyring = config.seal.keyring()?;
    Ok(Core {
        db: Db::new(&config.database)?,
        recorder: Recorder::new(context.clone(), keyring.clone()),
        outbox: Outbox::new(context.clone(), keyring.clone(), &config.mail),
        metrics: Metrics::new(),
        paging: Paging::new(&keyring),
        context,
        keyring,
    })
}

impl Health {
    fn new() -> Self {
        let reporter = tonic_health::server::HealthReporter::new();
        let service = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
        Self { service, reporter }
    }

    async fn serving(&self) {
        for name in services::NAMES {
            self.reporter.set_service_status(name, tonic_health::ServingStatus::Serving).await;
        }
    }

    async fn stopping(&self) {
        for name in services::NAMES.into_iter().chain([""]) {
            self.reporter.set_service_status(name, tonic_health::ServingStatus::NotServing).await;
        }
    }
}

impl Running {
    /// Serves until `stop` is cancelled or a part fails; then stops the other parts in order.
    ///
    /// # Errors
    /// The first part's that failed.
    pub async fn wait(mut self) -> Result<()> {
        let first = tokio::select! {
            () = self.app.stop.cancelled() => Ok(()),
            Some(ended) = self.tasks.join_next() => ended.map_err(Fault::internal).and_then(|result| result),
        };
        self.app.health.stopping().await;
        self.app.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok(Err(fault)) = ended {
                tracing::error!(event = "shutdown_failed", cause = %fault, "a part of the service failed to stop");
            }
        }
        let App { core, reserved, .. } = self.app;
        for db in [core.db, reserved.sequencer, reserved.feed, reserved.health] {
            db.close().await;
        }
        first
    }

    /// Stops in order and waits for the end.
    ///
    /// # Errors
    /// As [`Running::wait`].
    pub async fn stop(self) -> Result<()> {
        self.app.stop.cancel();
        self.wait().await
    }
}
