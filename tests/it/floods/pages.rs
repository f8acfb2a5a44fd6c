//! The HTTP ports: few addresses cannot hold all of their connections.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{PATIENCE, connect_from};
use crate::support::{TestServer, within};

const ASKED: &[u8] = b"GET /.well-known/jwks.json HTTP/1.1\r\nhost: sidle\r\nconnection: close\r\n\r\n";

/// The original attack: two addresses begin requests on as many connections as they get, and finish none.
#[tokio::test(flavor = "multi_thread")]
async fn two_addresses_do_not_keep_everybody_from_the_pages() {
    let server = TestServer::start().await;
    let to = server.ops_url().replace("http://", "").parse().unwrap();
    let mut held: Vec<TcpStream> = Vec::new();
    for own in ["127.0.0.2", "127.0.0.3"] {
        for _ in 0..64 {
            let mut stream = connect_from(own, to).await;
            // Fails where it was closed immediately.
            let _ = stream.write_all(b"GET /.well-known/jwks.json HT").await;
            held.push(stream);
        }
    }
    let mut asking = connect_from("127.0.0.4", to).await;
    asking.write_all(ASKED).await.unwrap();
    let mut answer = String::new();
    within("an answer", asking.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // None of the begun requests is waited for beyond its timeout.
    for mut stream in held {
        let gone = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        let _ = gone.expect("let go");
    }
}
