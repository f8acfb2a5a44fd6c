//! Callers with client certificates, over real TLS: which ones authenticate a service account, and which do not.

use std::path::Path;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use sidle::app::Running;
use sidle::context::Context;
use sidle::proto;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::look::reason;
use crate::support::{Client, Setup, TestServer, within};

/// An authority of client certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A client certificate with these URIs, valid from and until so many days from now.
    fn issue(&self, common_name: &str, uris: &[&str], days: (i64, i64)) -> Identity {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let day = |offset: i64| {
            let now = std::time::SystemTime::now();
            let far = Duration::from_secs(offset.unsigned_abs() * 86_400);
            if offset < 0 { now - far } else { now + far }
        };
        (params.not_before, params.not_after) = (day(days.0).into(), day(days.1).into());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity::from_pem(certificate.pem(), key.serialize_pem())
    }
}

/// A server with TLS, beside a plain one on the same database.
struct Site {
    plain: TestServer,
    running: Running,
    server_ca: Certificate,
    corp: Authority,
    other: Authority,
    _folder: tempfile::TempDir,
}

impl Site {
    /// `corp` and `other` are named when asked for; otherwise `other` is not configured at all.
    async fn start(name_other: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_string_lossy().into_owned()
        };
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (corp, other) = (Authority::new("corp"), Authority::new("other"));
        let mut named = format!("corp={}", write("corp.pem", &corp.pem));
        if name_other {
            named.push_str(&format!(",other={}", write("other.pem", &other.pem)));
        }
        let setup = Setup::new().await;
        let plain = setup.start().await;
        let setup = setup
            .with("SERVER__PLAINTEXT", "false")
            .with("SERVER__TLS_CERTIFICATE", &write("tls.crt", &issued.cert.pem()))
            .with("SERVER__TLS_KEY", &write("tls.key", &issued.signing_key.serialize_pem()))
            .with("SERVER__CLIENT_CAS", &named);
        let config = sidle::config::Config::load(None, setup.environment().clone()).unwrap();
        let app = sidle::app::App::new(config, Context::system()).await.unwrap();
        let running = app.start().await.unwrap();
        let server_ca = Certificate::from_pem(issued.cert.pem());
        Self { plain, running, server_ca, corp, other, _folder: folder }
    }

    /// A connection with this certificate, or with none.
    async fn channel(&self, identity: Option<Identity>) -> Result<Channel, tonic::transport::Error> {
        let mut tls = ClientTlsConfig::new().ca_certificate(self.server_ca.clone()).domain_name("localhost");
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        let url = format!("https://{}", self.running.grpc_address);
        Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap().connect().await
    }

    async fn client(&self, identity: Identity, token: &str) -> Client {
        Client::new(self.channel(Some(identity)).await.unwrap(), token)
    }

    /// A service account with these permissions and these URIs under `corp`.
    async fn account(
        &self,
        admin: &Client,
        tenant: Option<Uuid>,
        name: &str,
        permissions: &[&str],
        uris: &[&str],
    ) -> proto::ServiceAccount {
        let request = proto::CreateServiceAccountRequest {
            tenant_id: tenant.map(|id| id.to_string()).unwrap_or_default(),
            name: name.to_owned(),
            permissions: permissions.iter().map(|name| (*name).to_owned()).collect(),
            certificates: uris
                .iter()
                .map(|uri| proto::ClientCertificate { authority: "corp".to_owned(), uri: (*uri).to_owned() })
                .collect(),
            ..Default::default()
        };
        let created = admin.create_service_account(request).await.unwrap();
        created.service_account.unwrap()
    }
}

const BILLING: &str = "spiffe://example.org/billing";
const NOW: (i64, i64) = (-1, 1);

async fn who(client: &Client) -> Result<proto::WhoAmIResponse, Status> {
    Ok(client.authenticate.clone().who_am_i(proto::WhoAmIRequest {}).await?.into_inner())
}

async fn list_users(client: &Client) -> Result<(), Status> {
    client.directory.clone().list_users(proto::ListUsersRequest::default()).await.map(drop)
}

#[tokio::test]
async fn a_client_certificate_acts_as_the_account_that_knows_its_uri() {
    let site = Site::start(false).await;
    let admin = site.plain.admin().await;
    let account = site.account(&admin, None, "billing", &["users.read"], &[BILLING]).await;
    assert_eq!(account.certificates[0].uri, BILLING);
    let program = site.client(site.corp.issue("billing", &[BILLING], NOW), "").await;
    let me = who(&program).await.unwrap();
    let claims = me.claims.unwrap();
    assert_eq!(claims.subject, account.service_account_id);
    assert_eq!(claims.platform_permissions, ["users.read"]);
    assert_eq!(claims.kind(), proto::PrincipalKind::ServiceAccount);
    list_users(&program).await.expect("permitted");
    let refused = program.directory.clone().list_tenants(proto::ListTenantsRequest::default()).await.unwrap_err();
    assert_eq!(reason(&refused), "PERMISSION_DENIED");
    let nobody = Client::new(site.channel(None).await.unwrap(), "");
    assert_eq!(reason(&who(&nobody).await.unwrap_err()), "UNAUTHENTICATED", "without one nobody is known");
    nobody.authenticate.clone().get_jwks(proto::GetJwksRequest {}).await.expect("and what is public stays so");
}

#[tokio::test]
async fn certificates_that_are_not_exactly_one_known_name_are_refused() {
    let site = Site::start(true).await;
    let admin = site.plain.admin().await;
    site.account(&admin, None, "billing", &["users.read"], &[BILLING]).await;
    for (what, identity) in [
        ("only a common name", site.corp.issue(BILLING, &[], NOW)),
        ("an unknown URI", site.corp.issue("billing", &["spiffe://example.org/other"], NOW)),
        ("a wildcard", site.corp.issue("billing", &["spiffe://example.org/*"], NOW)),
        ("another spelling", site.corp.issue("billing", &["spiffe://EXAMPLE.org/billing"], NOW)),
        ("a longer name", site.corp.issue("billing", &["spiffe://example.org/billing/"], NOW)),
        ("two URIs", site.corp.issue("billing", &[BILLING, "spiffe://example.org/other"], NOW)),
        ("the same URI twice", site.corp.issue("billing", &[BILLING, BILLING], NOW)),
        ("the right URI under another named authority", site.other.issue("billing", &[BILLING], NOW)),
    ] {
        let program = site.client(identity, "").await;
        for refused in [who(&program).await.map(drop), list_users(&program).await] {
            let refused = refused.expect_err(what);
            assert_eq!(
                (refused.code(), reason(&refused).as_str()),
                (Code::Unauthenticated, "UNAUTHENTICATED"),
                "{what}"
            );
        }
    }
    let token = site.plain.sign_in("root@platform.example").await.access_token;
    let two = site.client(site.corp.issue("billing", &[BILLING, "spiffe://example.org/other"], NOW), &token).await;
    assert_eq!(reason(&who(&two).await.unwrap_err()), "UNAUTHENTICATED", "nor does a token make it good");
}

#[tokio::test]
async fn foreign_expired_and_future_certificates_do_not_even_connect() {
    let site = Site::start(false).await;
    let admin = site.plain.admin().await;
    site.account(&admin, None, "billing", &["users.read"], &[BILLING]).await;
    let self_made = Authority::new("corp");
    for (what, identity) in [
        ("another authority", site.other.issue("billing", &[BILLING], NOW)),
        ("an authority that says it has the same name", self_made.issue("billing", &[BILLING], NOW)),
        ("expired", site.corp.issue("billing", &[BILLING], (-3, -1))),
        ("not yet valid", site.corp.issue("billing", &[BILLING], (1, 3))),
    ] {
        // The client may learn of the refusal only with its first call.
        let refused = match site.channel(Some(identity)).await {
            Err(_) => continue,
            Ok(channel) => who(&Client::new(channel, "")).await.expect_err(what),
        };
        assert!(matches!(refused.code(), Code::Unavailable | Code::Unknown), "{what}: {refused:?}");
    }
}

#[tokio::test]
async fn a_certificate_that_expires_on_an_open_connection_is_good_no_more() {
    let site = Site::start(false).await;
    let admin = site.plain.admin().await;
    site.account(&admin, None, "billing", &["users.read"], &[BILLING]).await;
    let program = site.client(site.corp.issue("billing", &[BILLING], NOW), "").await;
    list_users(&program).await.expect("good");
    site.running.app.context.clock.advance(Duration::from_secs(2 * 86_400));
    let refused = list_users(&program).await.unwrap_err();
    assert_eq!(reason(&refused), "UNAUTHENTICATED");
}

#[tokio::test]
async fn with_certificate_and_token_only_what_both_permit_is_permitted() {
    let site = Site::start(false).await;
    let admin = site.plain.admin().await;
    let (north, south) = (site.plain.tenant("north").await, site.plain.tenant("south").await);
    site.plain.user(north, "boss@north.example", "super_admin").await;
    site.plain.user(north, "plain@north.example", "user").await;
    for (name, tenant, permissions) in [
        ("reader", Some(north), &["users.read"][..]),
        ("elsewhere", Some(south), &["*"]),
        ("tenants", None, &["tenants.read"]),
    ] {
        site.account(&admin, tenant, name, permissions, &[&format!("spiffe://example.org/{name}")]).await;
    }
    let tokens = [
        site.plain.sign_in("boss@north.example").await.access_token,
        site.plain.sign_in("plain@north.example").await.access_token,
    ];
    // (certificate, token, may list users, may list tenants)
    for (certificate, token, users, tenants) in [
        ("reader", 0, true, false),
        ("elsewhere", 0, false, false),
        ("tenants", 0, false, true),
        ("reader", 1, false, false),
        ("tenants", 1, false, false),
    ] {
        let identity = site.corp.issue("x", &[&format!("spiffe://example.org/{certificate}")], NOW);
        let client = site.client(identity, &tokens[token]).await;
        assert_eq!(list_users(&client).await.is_ok(), users, "{certificate}, {token}: users");
        let listed = client.directory.clone().list_tenants(proto::ListTenantsRequest::default()).await;
        assert_eq!(listed.is_ok(), tenants, "{certificate}, {token}: tenants");
        // The token's owner remains the principal.
        assert!(matches!(who(&client).await.unwrap().principal, Some(proto::who_am_i_response::Principal::User(_))));
    }
    let identity = site.corp.issue("x", &["spiffe://example.org/reader"], NOW);
    let forged = site.client(identity, "not.a.token").await;
    assert_eq!(reason(&who(&forged).await.unwrap_err()), "UNAUTHENTICATED", "a bad token is not made up for");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_certificate_permits_ends_with_its_account_at_once() {
    let site = Site::start(false).await;
    let admin = Client::new(site.channel(None).await.unwrap(), &{
        site.plain.admin().await;
        site.plain.sign_in("root@platform.example").await.access_token
    });
    let tenant = site.plain.tenant("north").await;
    let mut account = site.account(&admin, Some(tenant), "billing", &["users.read"], &[BILLING]).await;
    let program = site.client(site.corp.issue("billing", &[BILLING], NOW), "").await;
    list_users(&program).await.expect("good");
    let update = async |account: proto::ServiceAccount, path: &str| {
        let request = proto::UpdateServiceAccountRequest {
            service_account: Some(account),
            update_mask: Some(prost_types::FieldMask { paths: vec![path.to_owned()] }),
            validate_only: false,
        };
        admin.update_service_account(request).await.unwrap().service_account.unwrap()
    };
    account.permissions = vec!["audit.read".to_owned()];
    account = update(account, "permissions").await;
    assert_eq!(reason(&list_users(&program).await.unwrap_err()), "PERMISSION_DENIED", "the remembered rights are void");
    account.permissions = vec!["users.read".to_owned()];
    account = update(account, "permissions").await;
    list_users(&program).await.expect("given back");
    account.status = proto::ServiceAccountStatus::Disabled.into();
    account = update(account, "status").await;
    assert_eq!(reason(&list_users(&program).await.unwrap_err()), "UNAUTHENTICATED");
    account.status = proto::ServiceAccountStatus::Active.into();
    account = update(account, "status").await;
    list_users(&program).await.expect("switched on");
    account.certificates.clear();
    account = update(account, "certificates").await;
    assert_eq!(reason(&list_users(&program).await.unwrap_err()), "UNAUTHENTICATED", "its name was taken away");
    account.certificates = vec![proto::ClientCertificate { authority: "corp".to_owned(), uri: BILLING.to_owned() }];
    account = update(account, "certificates").await;
    list_users(&program).await.expect("known again");
    let delete =
        proto::DeleteServiceAccountRequest { service_account_id: account.service_account_id, ..Default::default() };
    admin.directory.clone().delete_service_account(delete).await.unwrap();
    assert_eq!(reason(&list_users(&program).await.unwrap_err()), "UNAUTHENTICATED");
    site.account(&admin, Some(tenant), "billing2", &["users.read"], &[BILLING]).await;
    list_users(&program).await.expect("the name is free for another");
}

#[tokio::test]
async fn one_name_is_one_accounts_and_the_platforms_to_give() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let create = |name: &str, certificates: Vec<proto::ClientCertificate>| proto::CreateServiceAccountRequest {
        name: name.to_owned(),
        certificates,
        ..Default::default()
    };
    let known = || vec![proto::ClientCertificate { authority: "corp".to_owned(), uri: BILLING.to_owned() }];
    admin.create_service_account(create("first", known())).await.unwrap();
    let taken = admin.create_service_account(create("second", known())).await.unwrap_err();
    assert_eq!(reason(&taken), "ALREADY_EXISTS");
    for uri in ["spiffe://example.org/*", "", "no uri", "spiffe://a\0b"] {
        let certificates = vec![proto::ClientCertificate { authority: "corp".to_owned(), uri: uri.to_owned() }];
        let refused = admin.create_service_account(create("third", certificates)).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_FIELD", "{uri:?}");
    }
    let tenant = server.tenant("north").await;
    server.user(tenant, "owner@north.example", "super_admin").await;
    let owner = server.client(&server.sign_in("owner@north.example").await.access_token);
    let uri = "spiffe://example.org/payments".to_owned();
    let certificates = vec![proto::ClientCertificate { authority: "corp".to_owned(), uri }];
    let request = proto::CreateServiceAccountRequest { tenant_id: tenant.to_string(), ..create("mine", certificates) };
    let refused = owner.create_service_account(request).await.unwrap_err();
    assert_eq!(reason(&refused), "PERMISSION_DENIED", "a tenant does not claim names of the operator's authority");
}

#[tokio::test]
async fn a_setting_that_names_no_usable_authority_stops_the_start() {
    let setup = Setup::new().await;
    for (setting, says) in [("corp", "NAME=FILE"), ("Corp=/x", "NAME=FILE"), ("a=/x,a=/y", "twice")] {
        let settings = setup.clone().with("SERVER__CLIENT_CAS", setting);
        let problem = sidle::config::Config::load(None, settings.environment().clone()).unwrap_err().to_string();
        assert!(problem.contains(says), "{setting}: {problem}");
    }
    let missing = Path::new("/nonexistent/corp.pem");
    let settings = setup.with("SERVER__CLIENT_CAS", &format!("corp={}", missing.display()));
    let config = sidle::config::Config::load(None, settings.environment().clone()).unwrap();
    let app = sidle::app::App::new(config, Context::system()).await.unwrap();
    let fault = format!("{:?}", app.start().await.err().expect("does not start"));
    assert!(fault.contains("corp.pem"), "{fault}");
}

/// A stream that was opened with a token and a certificate ends when either ends.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_ends_with_the_certificate_that_came_along() {
    let site = Site::start(false).await;
    let tenant = site.plain.tenant("north").await;
    site.plain.user(tenant, "boss@north.example", "super_admin").await;
    let admin = Client::new(site.channel(None).await.unwrap(), &{
        site.plain.admin().await;
        site.plain.sign_in("root@platform.example").await.access_token
    });
    let account = site.account(&admin, Some(tenant), "reader", &["audit.read"], &[BILLING]).await;
    let token = site.plain.sign_in("boss@north.example").await.access_token;
    let both = site.client(site.corp.issue("reader", &[BILLING], NOW), &token).await;
    let mut stream =
        both.audit.clone().stream_events(proto::StreamEventsRequest::default()).await.unwrap().into_inner();
    let account = proto::ServiceAccount { certificates: Vec::new(), ..account };
    let taken = proto::UpdateServiceAccountRequest {
        service_account: Some(account),
        update_mask: Some(prost_types::FieldMask { paths: vec!["certificates".to_owned()] }),
        validate_only: false,
    };
    admin.update_service_account(taken).await.unwrap();
    let ended = within("the stream ends", async {
        loop {
            match stream.message().await {
                Ok(message) => assert!(message.is_some(), "ended as if all were well"),
                Err(status) => break status,
            }
        }
    })
    .await;
    assert_eq!(reason(&ended), "UNAUTHENTICATED");
    let alone = Client::new(site.channel(None).await.unwrap(), &token);
    who(&alone).await.expect("the token is as good as before");
}
