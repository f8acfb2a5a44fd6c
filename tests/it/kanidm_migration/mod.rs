//! Migrations against a real Kanidm. Names are unique to each test, so that they run against a full Kanidm as well.

mod adopt;
mod client;
mod conditions;
mod crash;
mod faults;
mod groups;
mod names;
mod overtaken;
mod plan;
mod replicas;
mod rights;
mod run;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use serde_json::Value;
use sidle::proto::*;
use sidle_dev::kanidm::Kanidm;
use sidle_dev::random_word;
use tonic::Status;
use uuid::Uuid;

use crate::migration::{Imported, header, import, row};
use crate::support::{self, Client, Setup, TestServer, within};

/// A server with a Kanidm, a tenant and an administrator.
pub struct Stage {
    pub kanidm: Kanidm,
    pub setup: Setup,
    pub server: TestServer,
    pub client: Client,
    pub token: String,
    /// Slug of the tenant, and first label of its users' domain.
    pub slug: String,
    pub tenant: Uuid,
}

/// Sets the stage.
pub async fn stage() -> Stage {
    stage_with(|setup| setup).await
}

/// The stage with other settings.
pub async fn stage_with(change: impl FnOnce(Setup) -> Setup) -> Stage {
    let kanidm = support::kanidm().await;
    let access = kanidm.prepare("https://app.example/callback").await.expect("Kanidm is prepared");
    let setup = change(Setup::new().await.with_kanidm(&kanidm, &access).with("MIGRATION__BATCH_SIZE", "40"));
    let server = setup.start().await;
    let platform = server.tenant("platform").await;
    server.user(platform, "root@platform.example", "SYSTEM_ADMIN").await;
    let token = server.sign_in("root@platform.example").await.access_token;
    let slug = format!("t{}", random_word(10));
    let tenant = server.tenant(&slug).await;
    let client = server.client(&token);
    Stage { kanidm, setup, server, client, token, slug, tenant }
}

impl Stage {
    /// Stops this process's server, so that others have all the work.
    pub async fn rest(&mut self) {
        let setup = self.setup.clone().with("KANIDM__URL", "");
        self.replace(&setup).await;
    }

    /// Starts it again.
    pub async fn wake(&mut self) {
        let setup = self.setup.clone();
        self.replace(&setup).await;
    }

    async fn replace(&mut self, setup: &Setup) {
        let server = setup.start().await;
        std::mem::replace(&mut self.server, server).stop().await;
        self.client = self.server.client(&self.token);
    }

    pub fn mail(&self, name: impl std::fmt::Display) -> String {
        format!("{name}@{}.example", self.slug)
    }

    /// Imports `count` users, every tenth of them an administrator, with usernames of their own.
    pub async fn users(&self, count: i64) -> Imported {
        let rows = (1..=count).map(|n| ImportRow {
            username: format!("{}-{n}", self.slug),
            role: if n % 10 == 0 { "admin" } else { "user" }.to_owned(),
            ..row(n, &self.mail(n))
        });
        let imported = import(&self.client, header(&self.slug), rows.collect()).await.unwrap();
        assert_eq!(imported.summary.accepted, count);
        imported
    }

    pub async fn plan(&self) -> Plan {
        self.try_plan().await.unwrap()
    }

    pub async fn try_plan(&self) -> Result<Plan, Status> {
        let cohort = Some(Cohort { tenant_ids: vec![self.tenant.to_string()], ..Default::default() });
        let request = PlanMigrationRequest { cohort, request_id: String::new() };
        Ok(self.client.migration.clone().plan_migration(request).await?.into_inner().plan.unwrap())
    }

    pub async fn items_of_plan(&self, plan: &Plan) -> Vec<PlanItem> {
        let request = GetPlanRequest { plan_id: plan.plan_id.clone(), page_size: 1000, ..Default::default() };
        self.client.migration.clone().get_plan(request).await.unwrap().into_inner().items
    }

    pub async fn start(&self, plan: &Plan) -> Migration {
        self.try_start(plan).await.unwrap()
    }

    pub async fn try_start(&self, plan: &Plan) -> Result<Migration, Status> {
        let request = StartMigrationRequest {
            plan_id: plan.plan_id.clone(),
            plan_digest: plan.digest.clone(),
            request_id: Uuid::new_v4().to_string(),
            validate_only: false,
        };
        Ok(self.client.migration.clone().start_migration(request).await?.into_inner().migration.unwrap())
    }

    /// Watches a migration to its end and checks that every message adds up and no step is missing.
    pub async fn watch(&self, migration: &Migration) -> Vec<WatchMigrationResponse> {
        let request = WatchMigrationRequest { migration_id: migration.migration_id.clone(), ..Default::default() };
        let mut stream = self.client.migration.clone().watch_migration(request).await.unwrap().into_inner();
        let mut seen = Vec::new();
        within("the migration ends", async {
            while let Some(message) = stream.next().await {
                seen.push(message.unwrap());
            }
        })
        .await;
        adds_up(&seen);
        seen
    }

    pub async fn items(&self, migration_id: &str) -> BTreeMap<String, MigrationItem> {
        let request =
            ListMigrationItemsRequest { migration_id: migration_id.to_owned(), page_size: 1000, ..Default::default() };
        let items = self.client.migration.clone().list_migration_items(request).await.unwrap().into_inner().items;
        items.into_iter().map(|item| (item.email.clone(), item)).collect()
    }

    /// Persons of this stage in Kanidm, by address.
    pub async fn persons(&self) -> BTreeMap<String, Vec<Value>> {
        let domain = self.mail("");
        let mut persons: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for person in self.kanidm.persons().await.unwrap() {
            let mail = person["mail"][0].as_str().unwrap_or_default().to_owned();
            if mail.ends_with(&domain) {
                persons.entry(mail).or_default().push(person);
            }
        }
        persons
    }

    /// Checks that exactly these users are in Kanidm, each once and in the right groups, and linked here, and no
    /// others.
    pub async fn moved(&self, expected: &BTreeSet<String>) {
        let persons = self.persons().await;
        let here: Vec<(String, Uuid, String, Option<Uuid>, bool, bool)> = sqlx::query_as(
            "SELECT u.email_key, u.user_id, u.auth_method, u.kanidm_user_id, u.kanidm_synced_at IS NOT NULL,
                 EXISTS (SELECT FROM memberships m JOIN roles r USING (role_id) WHERE m.user_id = u.user_id AND r.is_admin)
             FROM users u WHERE u.tenant_id = $1",
        )
        .bind(self.tenant)
        .fetch_all(self.server.sql())
        .await
        .unwrap();
        for (mail, id, method, linked, synced, is_admin) in here {
            if !expected.contains(&mail) {
                assert_eq!((method.as_str(), linked), ("password", None), "{mail}");
                continue;
            }
            assert_eq!((method.as_str(), linked, synced), ("dual", Some(id), true), "{mail}");
            let [person] = persons.get(&mail).map_or(&[][..], Vec::as_slice) else {
                panic!("{mail} is not there once")
            };
            assert_eq!(person["uuid"][0].as_str(), Some(id.to_string().as_str()));
            let groups: BTreeSet<&str> = person["memberof"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(|spn| spn.split('@').next().unwrap())
                .filter(|name| name.starts_with("tenant_"))
                .collect();
            let (users, admins) = (format!("tenant_{}_users", self.slug), format!("tenant_{}_admins", self.slug));
            let wanted = if is_admin {
                BTreeSet::from([users.as_str(), admins.as_str()])
            } else {
                BTreeSet::from([users.as_str()])
            };
            assert_eq!(groups, wanted, "{mail}");
        }
    }

    /// Addresses of users 1 to `count` except these.
    pub fn mails(&self, count: i64, except: &[i64]) -> BTreeSet<String> {
        (1..=count).filter(|n| !except.contains(n)).map(|n| self.mail(n)).collect()
    }

    /// An old migration that intended to create this person, and never did.
    pub async fn earlier_intent(&self, user: &str, name: &str, display_name: &str) {
        let user = Uuid::parse_str(user).unwrap();
        let migration = Uuid::new_v4();
        sqlx::query(
            "INSERT INTO migrations (migration_id, kind, state, total, pending, failed, started_by, ended_at)
             VALUES ($1, 'bulk', 'completed', 1, 0, 1, $1, now())",
        )
        .bind(migration)
        .execute(self.server.sql())
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO migration_items (item_id, migration_id, ordinal, user_id, tenant_id, user_version, kanidm_name,
                 display_name, mail, is_admin, group_names, state, reason, intent_recorded_at)
             SELECT gen_random_uuid(), $1, 1, user_id, tenant_id, version, $3, $4, email_key, false, '{}', 'failed',
                 'person_refused', now() FROM users WHERE user_id = $2",
        )
        .bind(migration)
        .bind(user)
        .bind(name)
        .bind(display_name)
        .execute(self.server.sql())
        .await
        .unwrap();
    }
}

/// Every message adds up, steps have no gaps, nothing goes backwards.
pub fn adds_up(messages: &[WatchMigrationResponse]) {
    let mut last: Option<&WatchMigrationResponse> = None;
    for message in messages {
        let counts = message.counts.as_ref().unwrap();
        assert_eq!(counts.pending + counts.done + counts.failed + counts.skipped, counts.total, "{message:?}");
        assert!(counts.needs_review <= counts.failed, "{message:?}");
        if let Some(last) = last {
            let expected = if message.heartbeat { last.step } else { last.step + 1 };
            assert_eq!(message.step, expected, "after {last:?}");
            let before = last.counts.as_ref().unwrap();
            assert!(counts.total == before.total && counts.pending <= before.pending, "{before:?} then {counts:?}");
            assert_eq!(before.pending - counts.pending, i64::from(message.finished), "{message:?}");
        }
        last = Some(message);
    }
}

pub fn counts(message: &WatchMigrationResponse) -> (i64, i64, i64, i64) {
    let counts = message.counts.as_ref().unwrap();
    (counts.done, counts.failed, counts.skipped, counts.needs_review)
}
