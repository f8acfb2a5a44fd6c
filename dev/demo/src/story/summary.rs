//! The summary: the numbers, who failed and why, and calls to paste.

use std::collections::BTreeMap;

use super::Demo;
use super::migrate::{Failed, Migrated};
use crate::output::{self, bold, line, note, verbatim};

/// The numbers and the failures.
pub fn show(demo: &Demo<'_>, migrated: &Migrated) {
    line("");
    line(bold("Summary"));
    demo.checks.show();
    line("");
    line(bold("Users who could not be moved"));
    let row = |failed: &Failed| vec![failed.email.clone(), failed.reason.clone(), failed.legacy_id.clone()];
    output::table(&["user", "reason", "id in the old system"], &migrated.failed.iter().map(row).collect::<Vec<_>>());
    let remedies: BTreeMap<&str, &str> =
        migrated.failed.iter().map(|failed| (failed.reason.as_str(), failed.remedy.as_str())).collect();
    for (reason, remedy) in remedies {
        note(format!("What to do about {reason}: {remedy}"));
    }
}

/// Ready to paste while the service runs. The tokens are real ones, of a database that the next run replaces.
pub fn calls(demo: &Demo<'_>, migrated: &Migrated, hero_token: &str) {
    let address = demo.ready.grpc;
    let hero = &demo.expected.hero;
    let call = |token: &str, body: &str, method: &str| {
        let token = if token.is_empty() { String::new() } else { format!(" -H \"authorization: Bearer ${token}\"") };
        let body = if body.is_empty() { String::new() } else { format!(" -d '{body}'") };
        verbatim(format!("grpcurl -plaintext{token}{body} {address} sidle.v1.{method}"));
    };
    line("");
    line(bold("Calls to paste, while this runs"));
    verbatim(format!("HERO='{hero_token}'"));
    verbatim(format!("ADMIN='{}'", demo.admin_token));
    call("HERO", "", "AuthenticateService/WhoAmI");
    let password = serde_json::json!({ "identifier": hero.email, "password": hero.password });
    call("", &password.to_string(), "AuthenticateService/AuthenticatePassword");
    let failed = serde_json::json!({ "migration_id": migrated.migration_id, "states": ["ITEM_STATE_FAILED"] });
    call("ADMIN", &failed.to_string(), "MigrationService/ListMigrationItems");
    let events = serde_json::json!({ "filter": { "actor_id": hero.id }, "from_beginning": true });
    call("ADMIN", &events.to_string(), "AuditService/StreamEvents");
    line("");
    line("The same with buf instead of grpcurl:");
    verbatim(format!(
        "buf curl --protocol grpc --http2-prior-knowledge -H \"authorization: Bearer $HERO\" \
         http://{address}/sidle.v1.AuthenticateService/WhoAmI"
    ));
    line("and with Sidle's own command:");
    let program = std::env::var("SIDLE_BIN").unwrap_or_else(|_| "sidle".to_owned());
    let own = |token: &str, command: &str| {
        verbatim(format!("SIDLE_TOKEN=${token} {program} {command} --server http://{address}"));
    };
    own("HERO", "whoami");
    own("ADMIN", &format!("migrate items {} --state failed", migrated.migration_id));
    own("ADMIN", "audit tail --from-beginning --no-follow");
}
