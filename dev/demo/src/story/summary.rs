//! The end: the numbers, who failed and why, and calls to paste.

use std::time::Duration;

use super::Demo;
use super::migrate::Migrated;
use crate::output::{bold, line, note, verbatim};

/// Shows all of it.
pub fn show(demo: &Demo<'_>, migrated: &Migrated, hero_token: &str, took: Duration) {
    line("");
    line(bold("Summary"));
    demo.checks.show();
    line("");
    line(bold("Users who could not be moved"));
    for failed in &migrated.failed {
        note(format!("{} (id {} in the old system): {}", failed.email, failed.legacy_id, failed.reason));
        note(format!("    remedy: {}", failed.remedy));
    }
    calls(demo, migrated, hero_token);
    line("");
    line(format!("The story took {:.1} s.", took.as_secs_f64()));
}

/// Ready to paste while everything is up. The tokens are real ones, of a database that the next run replaces.
fn calls(demo: &Demo<'_>, migrated: &Migrated, hero_token: &str) {
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
    verbatim(format!("SIDLE_TOKEN=$HERO {program} whoami --server http://{address}"));
    verbatim(format!("SIDLE_TOKEN=$ADMIN {program} audit tail --server http://{address}"));
}
