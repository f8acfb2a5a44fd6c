//! STARTTLS injection: what a server, or an attacker in between, sends in the clear must not pass for an answer inside
//! TLS.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sidle::mail::{Kind, Message};
use sqlx::Row as _;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::tls::{certificate, secured, start, until_failed};
use super::write;
use crate::support::{Setup, TestServer, within};

/// What an attacker has taken for the answer to the EHLO inside TLS.
const INJECTED: &str = "250 AUTH PLAIN LOGIN\r\n";

/// Every line that a server received, and whether inside TLS.
type Heard = Arc<Mutex<Vec<(bool, String)>>>;

/// A server that sends `behind` in one packet with its answer to STARTTLS and then begins TLS as usual.
async fn server(certificate: &Path, key: &Path, behind: &'static str) -> (u16, Heard) {
    let certificate = CertificateDer::from_pem_file(certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, heard) = (listener.local_addr().unwrap().port(), Heard::default());
    let hears = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            converse(stream, &acceptor, behind, &hears).await;
        }
    });
    (port, heard)
}

async fn converse(stream: TcpStream, acceptor: &TlsAcceptor, behind: &str, heard: &Heard) {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 mx ESMTP\r\n").await.unwrap();
    within("the command that turns to TLS", async {
        while let Some(line) = hear(&mut stream, heard, false).await {
            if line == "STARTTLS" {
                stream.write_all(format!("220 go\r\n{behind}").as_bytes()).await.unwrap();
                break;
            }
            stream.write_all(b"250-mx\r\n250 STARTTLS\r\n").await.unwrap();
        }
    })
    .await;
    let Ok(stream) = within("the handshake", acceptor.accept(stream.into_inner())).await else {
        return;
    };
    let mut stream = BufReader::new(stream);
    within("the end of the conversation", async {
        while let Some(line) = hear(&mut stream, heard, true).await {
            let answer: &[u8] = if line.starts_with("EHLO") { b"250-mx\r\n250 AUTH PLAIN\r\n" } else { b"535 no\r\n" };
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    })
    .await;
}

async fn hear(stream: &mut (impl AsyncBufRead + Unpin), heard: &Heard, encrypted: bool) -> Option<String> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).await;
    let line = line.trim_end().to_owned();
    heard.lock().unwrap().push((encrypted, line.clone()));
    matches!(read, Ok(1..)).then_some(line)
}

async fn signing_in(port: u16, ca: &Path) -> TestServer {
    let setup: Setup = start(port, "starttls", ca).await;
    setup.with("MAIL__USERNAME", "sidle").with("MAIL__PASSWORD", "hunter2").start().await
}

/// The state of the only message, and why it was not accepted.
async fn outbox(server: &TestServer) -> (String, Option<String>) {
    let row = sqlx::query("SELECT state, failure FROM mail_outbox").fetch_one(server.sql()).await.unwrap();
    (row.get("state"), row.get("failure"))
}

#[tokio::test]
async fn an_answer_put_before_the_handshake_gets_no_password() {
    for (behind, class) in [(INJECTED, "injection"), ("2", "injection"), ("", "login")] {
        let (_folder, certificate, key) = certificate("localhost");
        let (port, heard) = server(&certificate, &key, behind).await;
        let sidle = signing_in(port, &certificate).await;
        write(&sidle, Message::to_address(Kind::TotpEnabled, None, "ann@letters.example")).await;
        until_failed(&sidle, class).await;
        let heard = heard.lock().unwrap().clone();
        let encrypted: Vec<&str> = heard.iter().filter(|(tls, _)| *tls).map(|(_, line)| line.as_str()).collect();
        if behind.is_empty() {
            // The same server without the attack is asked to authenticate, which is what would be seen otherwise.
            assert!(encrypted.iter().any(|line| line.starts_with("AUTH PLAIN")), "{heard:?}");
        } else {
            assert!(encrypted.is_empty(), "{heard:?}");
            assert!(heard.iter().all(|(_, line)| line == "STARTTLS" || line.is_empty() || line.starts_with("EHLO ")));
            let (state, failure) = outbox(&sidle).await;
            assert_eq!((state.as_str(), failure.as_deref()), ("waiting", Some("injection")));
        }
    }
}

/// Forwards everything between a client and the server at `port`, and puts [`INJECTED`] behind the answer to STARTTLS.
async fn somebody_in_between(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("localhost", port)).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
                let _ = to_server.shutdown().await;
            });
            tokio::spawn(async move {
                let mut buffer = vec![0; 16 * 1024];
                // The greeting, the answer to EHLO with its last line, and then the one to STARTTLS.
                let mut offered = false;
                while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                    let mut said = buffer[..count].to_vec();
                    if offered && said.starts_with(b"220") {
                        said.extend(INJECTED.as_bytes());
                    }
                    offered |= String::from_utf8_lossy(&said).contains("STARTTLS");
                    if to_client.write_all(&said).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    own
}

#[tokio::test]
async fn an_answer_put_in_by_somebody_in_between_gets_nothing_to_a_real_server() {
    let (smtp, _folder, ca) = secured("starttls", "localhost", Some("sidle:hunter2")).await;
    let sidle = signing_in(somebody_in_between(smtp.port).await, &ca).await;
    write(&sidle, Message::to_address(Kind::TotpEnabled, None, "ann@letters.example")).await;
    until_failed(&sidle, "injection").await;
    assert!(smtp.taken().unwrap().is_empty());
    let (state, failure) = outbox(&sidle).await;
    assert_eq!((state.as_str(), failure.as_deref()), ("waiting", Some("injection")));
}
