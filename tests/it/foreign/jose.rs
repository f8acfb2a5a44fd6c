//! Libraries that check Sidle's tokens by the published keys: what docs/clients.md says that each can do, it can.

use super::{Place, root};
use crate::support::Setup;

/// The rows of the table of libraries that were tried: name, version, and whether they read `EdDSA`, `ES256` and `RS256`.
fn documented() -> Vec<(String, String, [bool; 3])> {
    let page = std::fs::read_to_string(root("docs/clients.md")).unwrap();
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('*').to_owned()).collect()
    };
    let rows = page.lines().filter(|line| line.starts_with('|')).map(cells);
    let mut found = Vec::new();
    for row in rows.filter(|row| row.len() == 6) {
        let Some(version) = row[4].strip_prefix("tried ") else { continue };
        let name = row[1].trim_matches('`').to_owned();
        found.push((name, version.to_owned(), [2, 3, 3].map(|at| row[at].starts_with("yes"))));
    }
    found
}

#[tokio::test]
async fn libraries_read_the_algorithms_that_the_page_says() {
    let documented = documented();
    assert_eq!(documented.len(), 6, "{documented:?}");
    for (at, algorithm) in ["EdDSA", "ES256", "RS256"].into_iter().enumerate() {
        let setup = Setup::new().await.with("TOKENS__ALGORITHM", algorithm).with("TOKENS__RSA_BITS", "2048");
        let server = setup.start().await;
        let tenant = server.tenant("harbour").await;
        server.user(tenant, "ann@harbour.example", "user").await;
        let token = server.sign_in("ann@harbour.example").await.access_token;
        let tokens = &server.app().config.tokens;
        let place = Place::new(&server, "")
            .with("TOKEN", &token)
            .with("KEYS", &format!("{}/.well-known/jwks.json", server.ops_url()))
            .with("ALG", algorithm)
            .with("ISSUER", &tokens.issuer)
            .with("AUDIENCE", &tokens.audience);
        let mut said = String::new();
        for (program, script) in [("python", "verify.py"), ("node", "verify.js")] {
            place.file(script, &std::fs::read_to_string(root("tests/it/foreign").join(script)).unwrap());
            let (code, lines) = place.run(program, &[script]).await;
            assert_eq!(code, 0, "{script}: {lines}");
            said += &lines;
        }
        for (name, version, reads) in &documented {
            let expected = format!("{name} {version} {}", if reads[at] { "yes" } else { "no" });
            assert!(said.lines().any(|line| line == expected), "{algorithm}: {expected}, but\n{said}");
        }
    }
}
