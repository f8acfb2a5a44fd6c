//! A TCP proxy in front of something, which a test can cut, freeze and mend.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// They pass.
    Passes,
    /// Connections are closed, new ones too.
    Cut,
    /// Connections stay open and nothing passes: what a network does that drops packets.
    Frozen,
}

/// The proxy. Ends with this value.
pub struct Proxy {
    /// Where it listens: host and port.
    pub address: String,
    mood: Arc<watch::Sender<Mood>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of `target`, a host and a port.
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mood = Arc::new(watch::Sender::new(Mood::Passes));
        let (target, moods) = (target.to_owned(), Arc::clone(&mood));
        let serving = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                if *moods.borrow() == Mood::Cut {
                    continue;
                }
                let (target, moods) = (target.clone(), Arc::clone(&moods));
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::join!(
                        pump(from_client, to_server, moods.subscribe()),
                        pump(from_server, to_client, moods.subscribe())
                    );
                });
            }
        });
        Self { address, mood, serving }
    }

    /// Closes every connection and takes no new one.
    pub fn cut(&self) {
        self.mood.send_replace(Mood::Cut);
    }

    /// Keeps connections open and lets nothing pass.
    pub fn freeze(&self) {
        self.mood.send_replace(Mood::Frozen);
    }

    /// Lets everything pass again.
    pub fn mend(&self) {
        self.mood.send_replace(Mood::Passes);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.mood.send_replace(Mood::Cut);
        self.serving.abort();
    }
}

/// Carries bytes until an end closes, or the proxy is cut.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mood: watch::Receiver<Mood>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            biased;
            cut = mood.wait_for(|mood| *mood == Mood::Cut) => {
                drop(cut);
                return;
            }
            read = from.read(&mut buffer) => read,
        };
        let Ok(count @ 1..) = read else { return };
        if mood.wait_for(|mood| *mood != Mood::Frozen).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
