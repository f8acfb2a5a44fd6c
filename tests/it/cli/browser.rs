//! Signing in through a browser that comes back to the command.

use super::{Operator, lasting_address};
use crate::kanidm_login::person;
use crate::support::{Setup, eventually, kanidm, within};

/// What opens a browser on a desktop, here: it notes the address, as nobody looks at a screen.
fn browser(folder: &std::path::Path) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let (opener, opened) = (folder.join("xdg-open"), folder.join("opened"));
    let script = format!("#!/bin/sh\nprintf %s \"$1\" > '{0}.new' && mv '{0}.new' '{0}'\n", opened.display());
    std::fs::write(&opener, script).unwrap();
    std::fs::set_permissions(&opener, std::fs::Permissions::from_mode(0o755)).unwrap();
    opened
}

#[tokio::test]
async fn the_browser_that_comes_back_signs_in_and_nobody_pastes_anything() {
    let kanidm = kanidm().await;
    let redirect = format!("http://{}/callback", lasting_address());
    let access = kanidm.prepare(&redirect).await.unwrap();
    let server = Setup::new().await.with_kanidm(&kanidm, &access).start().await;
    let tenant = server.tenant("cli").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    let (linked, bearer) = person(&kanidm, "ann").await;
    let link = format!("auth_method = 'dual', kanidm_user_id = '{linked}', kanidm_synced_at = now()");
    crate::authenticate::set(&server, user, &link).await;

    let operator = Operator::new(&server);
    let opened = browser(operator.home.path());
    let path = format!("{}:/usr/bin:/bin", operator.home.path().display());
    let environment = [("DISPLAY", ":0"), ("PATH", path.as_str())];
    let login = ["login", "--kanidm", redirect.as_str(), "--tenant", "cli"];
    let goes_on = operator.run_with(&login, &environment, "");
    let comes_back = async {
        let address = eventually("a browser is opened", async || std::fs::read_to_string(&opened).ok()).await;
        let back = kanidm.authorise(&bearer, &address).await.unwrap();
        let foreign = format!("{redirect}?code={}&state=another", back.code);
        assert_eq!(reqwest::get(foreign).await.unwrap().status(), 404, "the address of another login");
        let page = reqwest::get(format!("{redirect}?code={}&state={}", back.code, back.state)).await.unwrap();
        assert_eq!(page.status(), 200);
        page.text().await.unwrap()
    };
    let (ran, page) = tokio::join!(goes_on, within("the page", comes_back));
    assert!(ran.code == 0 && ran.out.contains("ann@example.com"), "{ran:?}");
    assert!(page.contains("You can close this window"), "{page}");
    assert!(operator.ok(&["whoami"]).await.contains(&tenant.to_string()));
}

#[tokio::test]
async fn an_address_that_is_configured_nowhere_is_told_with_what_to_do() {
    let kanidm = kanidm().await;
    let access = kanidm.prepare("https://app.example/callback").await.unwrap();
    let server = Setup::new().await.with_kanidm(&kanidm, &access).start().await;
    let operator = Operator::new(&server);
    let ran = operator.run(&["login", "--kanidm"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    for told in ["http://localhost:8931/callback", "kanidm.redirect_uris", "Kanidm"] {
        assert!(ran.err.contains(told), "{told}: {ran:?}");
    }
}
