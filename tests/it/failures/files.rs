//! Files that settings name: not there, not what they should be, not fitting together, readable by others.

use super::fakes::Certificate;
use super::{Attempt, OTHER_KEY};

#[tokio::test]
async fn a_sealing_key_that_cannot_be_used_is_named_with_its_setting() {
    let keyless = || Attempt::new().without("SEAL__KEYS");
    keyless().says("start_seal_missing", &["serve"]).await;
    Attempt::new().with("SEAL__KEYS", "1:c2hvcnQ=").says("start_seal_malformed", &["serve"]).await;
    keyless().with("SEAL__KEY_FILE", "/nowhere/seal.key").says("start_seal_file_missing", &["serve"]).await;
    keyless().with_file("SEAL__KEY_FILE", "seal.key", "", 0o600).says("start_seal_file_empty", &["serve"]).await;
}

#[tokio::test]
async fn a_secret_that_others_can_read_is_refused_unless_that_is_asked_for() {
    let key = format!("1:{OTHER_KEY}\n");
    let exposed = |mode| Attempt::new().without("SEAL__KEYS").with_file("SEAL__KEY_FILE", "seal.key", &key, mode);
    exposed(0o644).says("start_seal_file_exposed", &["serve"]).await;
    // The next thing that is wrong is told: the database.
    exposed(0o600).says("start_seal_file_of_its_own", &["serve"]).await;
    let loose = exposed(0o644).with("FILES__ALLOW_LOOSE_PERMISSIONS", "true").with("LOG__LEVEL", "off");
    loose.says("start_seal_file_exposed_in_development", &["serve"]).await;
    let tls = Certificate::new("localhost");
    let attempt = Attempt::new().with("SERVER__PLAINTEXT", "false");
    let attempt = attempt.with_file("SERVER__TLS_CERTIFICATE", "tls.crt", &tls.pem, 0o644);
    attempt
        .with_file("SERVER__TLS_KEY", "tls.key", &tls.key, 0o640 | 0o004)
        .says("start_tls_key_exposed", &["serve"])
        .await;
}

#[tokio::test]
async fn tls_files_that_cannot_be_used_are_told_apart() {
    let (one, other) = (Certificate::new("localhost"), Certificate::new("localhost"));
    let attempt = |certificate: &str, key: &str| {
        let attempt = Attempt::new().with("SERVER__PLAINTEXT", "false");
        let attempt = attempt.with_file("SERVER__TLS_CERTIFICATE", "tls.crt", certificate, 0o644);
        attempt.with_file("SERVER__TLS_KEY", "tls.key", key, 0o600)
    };
    Attempt::new().with("SERVER__PLAINTEXT", "false").says("start_tls_missing", &["serve"]).await;
    let nowhere = attempt(&one.pem, &one.key).with("SERVER__TLS_CERTIFICATE", "/nowhere/tls.crt");
    nowhere.says("start_tls_certificate_missing", &["serve"]).await;
    attempt("no PEM\n", &one.key).says("start_tls_certificate_not_pem", &["serve"]).await;
    attempt(&one.pem, "no PEM\n").says("start_tls_key_not_pem", &["serve"]).await;
    attempt(&one.pem, &other.key).says("start_tls_key_of_another_certificate", &["serve"]).await;
    let authority = attempt(&one.pem, &one.key).with("SERVER__TLS_CLIENT_CA", "/nowhere/ca.crt");
    authority.says("start_tls_client_ca_missing", &["serve"]).await;
    let named = attempt(&one.pem, &one.key).with_file("SERVER__CLIENT_CAS", "ca.crt", "no PEM\n", 0o644);
    let path = named.environment["SIDLE_SERVER__CLIENT_CAS"].clone();
    named.with("SERVER__CLIENT_CAS", &format!("corp={path}")).says("start_client_ca_not_pem", &["serve"]).await;
}

#[tokio::test]
async fn other_files_are_named_with_what_is_wrong_in_them() {
    let short = Attempt::new();
    let path = short.file("shop.key", "c2hvcnQ=\n", 0o600);
    let short = short.with("TOKENS__HS256_CLIENTS", &format!("shop={}", path.display()));
    short.says("start_old_clients_key_short", &["serve"]).await;
    let pepper = Attempt::new().with_file("PASSWORDS__PEPPER_FILE", "pepper", "salt\n", 0o600);
    pepper.says("start_pepper_malformed", &["serve"]).await;
    let breached = Attempt::new().with("PASSWORDS__BREACHED_FILE", "/nowhere/breached.txt");
    breached.says("start_breached_list_missing", &["serve"]).await;
    let kanidm =
        Attempt::new().with("KANIDM__URL", "https://idm.example.com").with("KANIDM__CA_FILE", "/nowhere/ca.pem");
    kanidm.says("start_kanidm_authority_missing", &["serve"]).await;
}

#[tokio::test]
async fn a_key_is_written_for_its_owner_alone_and_over_nothing() {
    use std::os::unix::fs::PermissionsExt as _;
    let attempt = Attempt::new();
    let path = attempt.home.path().join("seal.key");
    let keygen = ["keygen", "--out", "seal.key"];
    // The widest mask there is does not widen the file.
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", "umask 000 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_sidle")]).args(keygen);
    let made = command.current_dir(attempt.home.path()).output().await.unwrap();
    assert!(made.status.success() && made.stdout.is_empty(), "{made:?}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let key = std::fs::read_to_string(&path).unwrap();
    attempt.says("keygen_over_a_key", &keygen).await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), key);
    // Nor through a link that leads to nothing yet.
    std::os::unix::fs::symlink(attempt.home.path().join("elsewhere"), attempt.home.path().join("link")).unwrap();
    attempt.says("keygen_through_a_link", &["keygen", "--out", "link"]).await;
    assert!(!attempt.home.path().join("elsewhere").exists());
}
