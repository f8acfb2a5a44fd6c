//! `sidle whoami`.

use super::Global;
use super::connect::Caller;
use super::failure::Result;
use super::output::{Out, dash, time};
use crate::proto::who_am_i_response::Principal;
use crate::proto::{MemberTenant, WhoAmIRequest};

pub(super) async fn run(global: &Global, out: &Out) -> Result<()> {
    let caller = Caller::open(global)?;
    let answer = caller.authenticate().await?.who_am_i(WhoAmIRequest {}).await?.into_inner();
    if out.is_json() {
        return out.message(&answer);
    }
    let claims = answer.claims.unwrap_or_default();
    let who = match &answer.principal {
        Some(Principal::User(user)) => format!("{} ({})", user.email, dash(&user.full_name)),
        Some(Principal::ServiceAccountName(name)) => format!("service account {name}"),
        None => String::new(),
    };
    let acting_in = answer.tenants.iter().find(|tenant| tenant.tenant_id == claims.tenant_id);
    let tenant = acting_in.map_or_else(|| dash(&claims.tenant_id), |tenant| tenant.slug.clone());
    out.facts(&[
        ("server", caller.server.clone()),
        ("signed in as", who),
        ("id", claims.subject),
        ("acting in tenant", tenant),
        ("session", claims.session_id),
        ("token ends", time(claims.expires_at.as_ref())),
        ("permissions", dash(&claims.permissions.join(" "))),
        ("on the platform", dash(&claims.platform_permissions.join(" "))),
    ])?;
    if answer.must_change_password {
        out.note("The password must be changed first: until then the session may do nothing else.");
    }
    if answer.tenants.is_empty() { Ok(()) } else { print_tenants(&answer.tenants, out) }
}

fn print_tenants(tenants: &[MemberTenant], out: &Out) -> Result<()> {
    out.line("")?;
    let rows = tenants.iter().map(|tenant| {
        let home = if tenant.home { "home" } else { "" };
        vec![
            tenant.tenant_id.clone(),
            tenant.slug.clone(),
            tenant.name.clone(),
            tenant.roles.iter().chain(&tenant.tenant_roles).cloned().collect::<Vec<_>>().join(" "),
            home.to_owned(),
        ]
    });
    out.table(&["TENANT", "SLUG", "NAME", "ROLES", ""], rows.collect())
}
