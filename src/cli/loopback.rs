//! Waiting on this machine for the browser that comes back from Kanidm (RFC 8252, 7.3): one small HTTP answer.
//!
//! Anything on the machine, and any page in a browser on it, can send requests here. So only the one path is answered, under
//! the one host name (another one is a page that has its own name resolve to this machine), and only the `state` of this
//! login counts: whatever else comes is turned away and waited past. Requests are read one after the other, each of bounded
//! size and for a bounded time.

use std::time::Duration;

use http::Uri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::failure::Result;

/// Bytes of a request's head at most.
const LONGEST: usize = 16 * 1024;
/// How long a request may take to arrive, and its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(2);

/// Listens at a redirect address on this machine.
pub(super) struct Loopback {
    listeners: Vec<TcpListener>,
    /// Host and port, as the browser names them.
    authority: String,
    path: String,
}

impl Loopback {
    /// Listens at `redirect_uri`; none when that is not on this machine, or something else listens there.
    pub async fn bind(redirect_uri: &str) -> Option<Self> {
        let uri: Uri = redirect_uri.parse().ok()?;
        let (host, port) = (uri.host()?, uri.port_u16()?);
        let addresses: &[&str] = match host {
            // Browsers try either; a stranger who has one of the two gets a code that is worth nothing without this
            // command's secret.
            "localhost" => &["127.0.0.1", "::1"],
            "127.0.0.1" => &["127.0.0.1"],
            "[::1]" => &["::1"],
            _ => return None,
        };
        if uri.scheme_str() != Some("http") || uri.query().is_some() {
            return None;
        }
        let mut listeners = Vec::new();
        for address in addresses {
            listeners.extend(TcpListener::bind((*address, port)).await.ok());
        }
        let authority = format!("{host}:{port}");
        (!listeners.is_empty()).then(|| Self { listeners, authority, path: uri.path().to_owned() })
    }

    /// The address that the browser of the login `state` came back with. Waits for as long as it takes.
    pub async fn wait(&self, state: &str) -> Result<String> {
        loop {
            let mut stream = self.accept().await?;
            // Whoever says nothing, such as a browser's connection in reserve, makes room for the next.
            let Ok(asked) = tokio::time::timeout(PATIENCE, read_head(&mut stream)).await else { continue };
            let back =
                asked.and_then(|head| self.target(&head)).filter(|target| parameter(target, "state") == Some(state));
            let answered = tokio::time::timeout(PATIENCE, answer(&mut stream, back.as_deref())).await;
            if let Some(target) = back {
                // The browser that goes away before it shows the page has done its part.
                drop(answered);
                return Ok(target);
            }
        }
    }

    async fn accept(&self) -> Result<TcpStream> {
        let accepted = self.listeners.iter().map(|listener| Box::pin(listener.accept()));
        let (accepted, ..) = futures_util::future::select_all(accepted).await;
        Ok(accepted?.0)
    }

    /// What is asked for, if it is this login's path under this login's host.
    fn target(&self, head: &str) -> Option<String> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        let host = |line: &str| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("host").then(|| value.trim().to_owned())
        };
        let hosts: Vec<String> = lines.filter_map(host).collect();
        let is_ours = method == "GET" && hosts == [self.authority.clone()];
        (is_ours && target.split('?').next() == Some(&self.path)).then(|| target.to_owned())
    }
}

/// A parameter of the query, as it stands there.
pub(super) fn parameter<'a>(address: &'a str, name: &str) -> Option<&'a str> {
    let query = address.split_once('?')?.1;
    let query = query.split('#').next().unwrap_or(query);
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// A request up to the end of its head; none when it is too long, broken, or no text.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut some = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut some).await.ok().filter(|read| *read > 0)?;
        head.extend_from_slice(some.get(..read)?);
        if head.len() > LONGEST {
            return None;
        }
    }
    String::from_utf8(head).ok()
}

async fn answer(stream: &mut TcpStream, back: Option<&str>) -> std::io::Result<()> {
    let (status, text) = match back {
        Some(target) if parameter(target, "error").is_none() => {
            ("200 OK", "That was it here. You can close this window; the command line goes on.")
        }
        Some(_) => ("200 OK", "You were not signed in. You can close this window; the command line says why."),
        None => ("404 Not Found", "There is nothing here."),
    };
    let page = format!("<!doctype html><meta charset=\"utf-8\"><title>Sidle</title><p>{text}</p>\n");
    // The address of the page holds the code: nothing keeps it, nothing is loaded from elsewhere.
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\
         cache-control: no-store\r\nreferrer-policy: no-referrer\r\ncontent-security-policy: default-src 'none'\r\n\
         x-content-type-options: nosniff\r\n\r\n{page}",
        page.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Listens at a free port, under `127.0.0.1`.
    async fn loopback() -> (Loopback, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let authority = format!("127.0.0.1:{port}");
        (Loopback { listeners: vec![listener], authority, path: "/callback".to_owned() }, port)
    }

    async fn send(port: u16, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut answer = Vec::new();
        // What is turned away may be cut off before it has sent everything, or read the answer.
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn only_the_browser_of_this_login_is_listened_to() {
        let (loopback, port) = loopback().await;
        let (back, ()) = tokio::join!(loopback.wait("mine"), foreign_and_then_ours(port));
        assert_eq!(back.unwrap(), "/callback?code=c-1&state=mine");
    }

    async fn foreign_and_then_ours(port: u16) {
        let get = |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let here = format!("127.0.0.1:{port}");
        for foreign in [
            get("/callback?code=c&state=other", &here),
            get("/callback?error=access_denied", &here),
            get("/callback?code=c", &here),
            get("/elsewhere?code=c&state=mine", &here),
            get("/callback/?code=c&state=mine", &here),
            get("/callback?code=c&state=mine", "attacker.example"),
            get("/callback?code=c&state=mine", &format!("localhost:{port}")),
            "GET /callback?code=c&state=mine HTTP/1.1\r\n\r\n".to_owned(),
            format!("GET /callback?code=c&state=mine HTTP/1.1\r\nHost: {here}\r\nHost: {here}\r\n\r\n"),
            get("/callback?code=c&state=mine", &here).replacen("GET", "POST", 1),
            "\r\n\r\n".to_owned(),
        ] {
            let answer = send(port, &foreign).await;
            assert!(answer.starts_with("HTTP/1.1 404"), "{foreign}: {answer}");
        }
        let endless = send(port, &"x".repeat(2 * LONGEST)).await;
        assert!(!endless.contains("200 OK"), "{endless}");
        // A connection that says nothing.
        let silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let answer = send(port, &get("/callback?code=c-1&state=mine", &here)).await;
        assert!(answer.contains("200 OK") && answer.contains("close this window"), "{answer}");
        assert!(!answer.contains("c-1"), "nothing of the request is shown");
        drop(silent);
    }

    #[tokio::test]
    async fn only_addresses_of_this_machine_are_listened_at() {
        for elsewhere in [
            "https://app.example/callback",
            "https://localhost:1/callback",
            "http://localhost/callback",
            "http://10.0.0.1:1/callback",
            "http://localhost.example:1/callback",
            "http://0.0.0.0:1/callback",
            "http://localhost:1/callback?a=b",
            "app:/callback",
            "",
        ] {
            assert!(Loopback::bind(elsewhere).await.is_none(), "{elsewhere}");
        }
        let (_taken, port) = loopback().await;
        assert!(Loopback::bind(&format!("http://127.0.0.1:{port}/callback")).await.is_none(), "it is taken");
    }
}
