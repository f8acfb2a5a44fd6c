//! The setup: Kanidm with some persons, an empty Sidle with an administrator, tenants.

use sidle::proto::{AuthenticatePasswordRequest, CreateTenantRequest, authenticate_password_response::Outcome};
use sidle_dev::kanidm::Access;

use super::Demo;
use crate::Result;
use crate::client::{Client, refused};
use crate::expected::Expected;
use crate::output::{self, fact};
use crate::servers::{Ready, Servers, Sidle};

/// Where a login through Kanidm returns to: the application that the hero uses.
const REDIRECT_URI: &str = "https://app.example/signed-in";
const ADMIN: &str = "admin@platform.example";

/// Starts Kanidm, with some persons in it already, and creates what Sidle needs there.
pub async fn kanidm(servers: &mut Servers, expected: &Expected) -> Result<Access> {
    let step = output::step(1, "Kanidm, with people of its own");
    servers.start_kanidm().await?;
    let kanidm = servers.kanidm()?;
    fact("dev Kanidm", &kanidm.url);
    for person in &expected.kanidm_preexisting {
        kanidm.create_person(&person.name, &person.displayname, &person.mail).await?;
    }
    let mails: Vec<&str> = expected.kanidm_preexisting.iter().map(|person| person.mail.as_str()).collect();
    fact("persons who were there before", mails.len());
    mails.iter().for_each(|mail| fact("", mail));
    let access = kanidm.prepare(REDIRECT_URI).await?;
    fact("OAuth2 client for Sidle", &access.client_id);
    step.done();
    Ok(access)
}

/// Creates the schema and the first administrator, starts the service, and signs the administrator in.
pub async fn service(servers: &mut Servers, sidle: &mut Sidle, access: &Access) -> Result<(Ready, String, String)> {
    let step = output::step(2, "Sidle: schema, first administrator, service");
    let key = sidle.run(&["keygen"], &[]).await?;
    sidle.set("SEAL__KEYS", &key);
    let kanidm_url = servers.kanidm()?.url.clone();
    sidle.with_kanidm(&kanidm_url, access);
    let applied = sidle.run(&["schema", "up"], &[]).await?;
    fact("sidle schema up", output::count(applied.matches(".up.sql").count(), "migration"));
    let password = sidle_dev::random_word(24);
    sidle.run(&["admin", "bootstrap", "--email", ADMIN], &[("SIDLE_PASSWORD", &password)]).await?;
    fact("sidle admin bootstrap", ADMIN);
    let ready = servers.start_service(sidle).await?;
    fact("sidle serve, gRPC", ready.grpc);
    fact("metrics, health, keys", format!("http://{}/metrics, /healthz, /readyz, /.well-known/jwks.json", ready.ops));
    fact("its log", ready.log.display());

    let anonymous = Client::new(&ready.channel, None)?;
    let token = sign_in(&anonymous, ADMIN, &password).await?;
    step.done();
    Ok((ready, token, password))
}

async fn sign_in(anonymous: &Client, identifier: &str, password: &str) -> Result<String> {
    let request = AuthenticatePasswordRequest {
        identifier: identifier.to_owned(),
        password: password.to_owned(),
        ..Default::default()
    };
    let answer = anonymous.authenticate.clone().authenticate_password(request).await;
    match answer.map_err(refused("AuthenticatePassword"))?.into_inner().outcome {
        Some(Outcome::SignedIn(signed_in)) => Ok(signed_in.tokens.unwrap_or_default().access_token),
        _ => Err(format!("{identifier} was not signed in").into()),
    }
}

/// Creates the tenants of the sample.
pub async fn tenants(demo: &mut Demo<'_>) -> Result<()> {
    let step = output::step(3, "Three tenants");
    for slug in demo.expected.tenants.clone() {
        let request = CreateTenantRequest {
            request_id: uuid::Uuid::new_v4().to_string(),
            slug: slug.clone(),
            name: format!("{}{}", slug[..1].to_uppercase(), &slug[1..]),
            ..Default::default()
        };
        let answer = demo.admin.directory.create_tenant(request).await.map_err(refused("CreateTenant"))?;
        let tenant = answer.into_inner().tenant.unwrap_or_default();
        fact(&tenant.slug, &tenant.tenant_id);
        demo.tenants.insert(slug, tenant.tenant_id);
    }
    step.done();
    Ok(())
}
