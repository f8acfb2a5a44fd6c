//! Passwords and second factors at the command line: set, changed, lost, and typed wrong.

use sidle::proto::GetSessionRequest;

use super::{Operator, signed_in};
use crate::authenticate::factors::{Authenticator, tick};
use crate::look::{event, reasons};
use crate::support::{ADMIN_PASSWORD, Setup, TestServer};

const NEW: &str = "another horse battery staple";
const NEWEST: &str = "a third horse battery staple";

fn settings(setup: &Setup) -> Vec<(String, String)> {
    setup.environment().iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The settings of the service, as an operator has them on its machine.
fn with_settings<'a>(all: &'a [(String, String)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    all.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(more.iter().copied()).collect()
}

async fn signs_in(operator: &Operator, email: &str, password: &str) -> bool {
    operator.run_with(&["login", "--email", email], &[("SIDLE_PASSWORD", password)], "").await.code == 0
}

#[tokio::test]
async fn a_password_is_changed_and_the_login_goes_on() {
    let (server, operator) = signed_in().await;
    let elsewhere = server.sign_in("root@platform.example").await;
    // One after the other from one stream, as a script would give them.
    let both = format!("{ADMIN_PASSWORD}\n{NEW}\n");
    let changed = operator.run_with(&["change-password"], &[], &both).await;
    assert!(changed.code == 0 && changed.out.contains("2 other sessions have ended"), "{changed:?}");
    assert!(operator.ok(&["whoami"]).await.contains("root@platform.example"), "signed in as before");
    assert!(
        server.client(&elsewhere.access_token).session.clone().get_session(GetSessionRequest::default()).await.is_err()
    );
    let kept = std::fs::read_to_string(operator.credentials()).unwrap();
    assert!(!kept.contains(NEW) && kept.contains("sidle_rt_"));
    let weak = operator.run_with(&["change-password"], &[], &format!("{NEW}\nroot@platform.example\n")).await;
    assert!(weak.code == 1 && weak.err.contains("new_password"), "{weak:?}");

    // On a terminal nobody sees what they type: it is asked for twice, and again until it is good.
    let mut terminal = operator.on_terminal(&["change-password"], &[]);
    terminal.expect("Present password: ").await;
    terminal.answer(NEW).await;
    for (first, second, told) in
        [(NEWEST, NEW, "not the same"), ("root@platform.example", "root@platform.example", "The new password")]
    {
        terminal.expect("New password: ").await;
        terminal.answer(first).await;
        terminal.expect("Once more: ").await;
        terminal.answer(second).await;
        terminal.expect(told).await;
    }
    terminal.expect("New password: ").await;
    terminal.answer(NEWEST).await;
    terminal.expect("Once more: ").await;
    terminal.answer(NEWEST).await;
    let (code, shown) = terminal.end().await;
    assert!(code == 0 && shown.contains("The password is changed"), "{shown}");
    assert!(signs_in(&operator, "root@platform.example", NEWEST).await);
}

#[tokio::test]
async fn a_user_who_is_made_with_a_password_gets_in_and_replaces_it() {
    let (server, operator) = signed_in().await;
    server.tenant("north").await;
    let create = ["users", "create", "--email", "ann@north.example", "--tenant", "north", "--with-password"];
    let given = [("SIDLE_PASSWORD", ADMIN_PASSWORD), ("SIDLE_NEW_PASSWORD", NEW)];
    let created = operator.run_with(&create, &given, "").await;
    let mends = "sidle users enable ann@north.example --email-verified";
    assert!(created.code == 0 && created.err.contains("cannot sign in") && created.err.contains(mends), "{created:?}");
    let ann = Operator::new(&server);
    assert!(!signs_in(&ann, "ann@north.example", NEW).await);
    let enabled = operator.ok_proven(&["users", "enable", "ann@north.example", "--email-verified"]).await;
    assert!(enabled.contains("is active") && !enabled.contains("not verified"), "{enabled}");

    let login = ["login", "--email", "ann@north.example"];
    let told = ann.run_with(&login, &[("SIDLE_PASSWORD", NEW)], "").await;
    assert!(told.code == 0 && told.err.contains("sidle change-password"), "{told:?}");
    let mut terminal = ann.on_terminal(&login, &[]);
    terminal.expect("Password: ").await;
    terminal.answer(NEW).await;
    terminal.expect("must be changed").await;
    for question in ["New password: ", "Once more: "] {
        terminal.expect(question).await;
        terminal.answer(NEWEST).await;
    }
    let (code, shown) = terminal.end().await;
    assert!(code == 0 && shown.contains("The password is changed"), "{shown}");
    assert!(!ann.run(&["whoami"]).await.err.contains("must be changed"));
    assert!(signs_in(&ann, "ann@north.example", NEWEST).await);
}

#[tokio::test]
async fn the_first_administrators_password_is_typed_twice() {
    let server = TestServer::start().await;
    let (operator, all) = (Operator::new(&server), settings(&server.setup));
    let bootstrap = ["admin", "bootstrap", "--email", "first@example.com"];
    let mut terminal = operator.on_terminal(&bootstrap, &with_settings(&all, &[]));
    for (second, told) in [(NEWEST, "The two are not the same"), (NEW, "administers the platform now")] {
        terminal.expect("Password of the administrator: ").await;
        terminal.answer(NEW).await;
        terminal.expect("Once more: ").await;
        terminal.answer(second).await;
        let shown = terminal.expect(told).await;
        assert!(!shown.contains(NEW) && !shown.contains(NEWEST), "{shown}");
    }
    assert_eq!(terminal.end().await.0, 0);
    assert!(signs_in(&operator, "first@example.com", NEW).await);
}

#[tokio::test]
async fn an_administrator_who_lost_everything_comes_back_by_way_of_the_database_machine() {
    let setup = Setup::new().await.with("MAIL__HOST", "localhost").with("MAIL__FROM", "Sidle <sidle@example.com>");
    let server = setup.with("MAIL__ORIGIN", "https://accounts.example.com").with("MAIL__PORT", "1").start().await;
    server.admin().await;
    let operator = Operator::new(&server);
    operator.sign_in("root@platform.example").await;
    let shown = operator.run_with(&["mfa", "enrol"], &[("SIDLE_PASSWORD", ADMIN_PASSWORD)], "").await;
    let secret = shown.out.lines().find_map(|line| line.strip_prefix("secret")).unwrap().replace(' ', "");
    tick(&server);
    let code = Authenticator::new(&secret).code(server.context.now(), 0);
    // A wrong code does not cost the enrolment.
    let confirmed = operator.run_with(&["mfa", "confirm"], &[], &format!("000000\n{code}\n")).await;
    assert!(confirmed.code == 0 && confirmed.err.contains("not right"), "{confirmed:?}");
    let lock = "UPDATE users SET locked_until = now() + interval '1 day', lock_reason = 'administrator',
        failed_login_attempts = 3";
    sqlx::query(lock).execute(server.sql()).await.unwrap();

    let all = settings(&server.setup);
    let reset = ["admin", "reset-password", "--email", "ROOT@platform.example", "--remove-mfa"];
    let ran = operator.run_with(&reset, &with_settings(&all, &[("SIDLE_NEW_PASSWORD", NEW)]), "").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("second factor is removed") && !ran.err.contains(NEW) && ran.out.is_empty(), "{ran:?}");
    let recorded = event(&server, "user.password_reset").await;
    assert_eq!(recorded.details["sessions"].as_array().unwrap().len(), 1, "the operator's");
    assert_eq!(recorded.reason.as_deref(), Some("operator"));
    assert_eq!(reasons(&server, "user.totp_disabled", "success").await, ["operator"]);
    let told =
        "SELECT array_agg(kind ORDER BY kind) FROM mail_outbox WHERE kind IN ('password_changed', 'totp_disabled')";
    let told: Vec<String> = sqlx::query_scalar(told).fetch_one(server.sql()).await.unwrap();
    assert_eq!(told, ["password_changed", "totp_disabled"]);
    let ended = operator.run(&["whoami"]).await;
    assert!(ended.code == 4 && ended.err.contains("has ended"), "{ended:?}");
    assert!(!signs_in(&operator, "root@platform.example", ADMIN_PASSWORD).await);
    assert!(signs_in(&operator, "root@platform.example", NEW).await, "neither locked nor asked for a code");

    let made_up = ["admin", "reset-password", "--email", "root@platform.example", "--generate-password"];
    let made_up = operator.run_with(&made_up, &with_settings(&all, &[]), "").await;
    assert!(signs_in(&operator, "root@platform.example", made_up.out.trim()).await, "{made_up:?}");
}

/// Everybody else is helped by an administrator, whom the audit log names.
#[tokio::test]
async fn only_an_administrator_of_the_platform_comes_back_that_way() {
    let server = TestServer::start().await;
    let (operator, all) = (Operator::new(&server), settings(&server.setup));
    let tenant = server.tenant("north").await;
    for (email, role) in [("ann@north.example", "user"), ("bob@north.example", "super_admin")] {
        server.user(tenant, email, role).await;
    }
    for (email, status) in [("off@north.example", "disabled"), ("new@north.example", "pending_verification")] {
        let user = server.user(tenant, email, "SYSTEM_ADMIN").await;
        crate::authenticate::set(&server, user, &format!("status = '{status}'")).await;
    }
    let before: Vec<String> = hashes(&server).await;
    for email in ["ann@north.example", "bob@north.example", "off@north.example", "new@north.example", "x@y.example"] {
        let reset = ["admin", "reset-password", "--email", email];
        let ran = operator.run_with(&reset, &with_settings(&all, &[("SIDLE_NEW_PASSWORD", NEW)]), "").await;
        assert!(ran.code == 1 && ran.err.contains("INVALID_FIELD") && ran.err.contains("administrator"), "{ran:?}");
    }
    assert_eq!(hashes(&server).await, before);
}

async fn hashes(server: &TestServer) -> Vec<String> {
    sqlx::query_scalar("SELECT password_hash FROM users ORDER BY email").fetch_all(server.sql()).await.unwrap()
}

#[tokio::test]
async fn a_terminal_shows_a_picture_of_the_second_factor_and_asks_until_the_code_is_right() {
    let server = TestServer::start().await;
    let tenant = server.tenant("north").await;
    server.user(tenant, "ann@north.example", "user").await;
    let operator = Operator::new(&server);
    operator.sign_in("ann@north.example").await;
    let mut terminal = operator.on_terminal(&["mfa", "enrol"], &[("SIDLE_PASSWORD", ADMIN_PASSWORD)]);
    let shown = terminal.expect("Code that the application shows: ").await;
    let secret = shown.lines().find_map(|line| line.strip_prefix("secret")).unwrap().replace(' ', "");
    let drawn = shown.lines().filter(|line| line.contains('█')).count();
    assert!(shown.contains("otpauth://totp/") && drawn > 15, "{shown}");
    terminal.answer("000000").await;
    terminal.expect("not right").await;
    terminal.expect("Code that the application shows: ").await;
    tick(&server);
    terminal.answer(&Authenticator::new(secret.trim()).code(server.context.now(), 0)).await;
    let (code, shown) = terminal.end().await;
    assert!(code == 0 && shown.contains("The application is enrolled"), "{shown}");
}
