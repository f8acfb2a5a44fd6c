//! A TCP proxy that a test can cut, freeze and restore.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the proxy does with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// They are forwarded.
    Passes,
    /// Connections are closed, new ones too.
    Cut,
    /// Connections stay open and nothing is forwarded, as in a network that drops packets.
    Frozen,
}

/// The proxy. Stopped when this value is dropped.
pub struct Proxy {
    /// Where it listens: host and port.
    pub address: String,
    mood: Arc<watch::Sender<Mood>>,
    /// How often the open connections were frozen.
    strandings: Arc<watch::Sender<u64>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of `target`, a host and a port.
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mood = Arc::new(watch::Sender::new(Mood::Passes));
        let strandings = Arc::new(watch::Sender::new(0));
        let (target, moods, strands) = (target.to_owned(), Arc::clone(&mood), Arc::clone(&strandings));
        let serving = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                if *moods.borrow() == Mood::Cut {
                    continue;
                }
                let (target, moods) = (target.clone(), Arc::clone(&moods));
                let (mut strands, open_since) = (strands.subscribe(), *strands.borrow());
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                        (client.into_split(), server.into_split());
                    let mut cut = moods.subscribe();
                    let carried = async {
                        tokio::join!(
                            pump(&mut from_client, &mut to_server, moods.subscribe()),
                            pump(&mut from_server, &mut to_client, moods.subscribe())
                        )
                    };
                    let is_stranded = tokio::select! {
                        _ = carried => false,
                        stranded = strands.wait_for(|count| *count > open_since) => stranded.is_ok(),
                    };
                    if is_stranded {
                        // Open for ever, and nothing is forwarded any more.
                        let _ = cut.wait_for(|mood| *mood == Mood::Cut).await;
                    }
                });
            }
        });
        Self { address, mood, strandings, serving }
    }

    /// Closes every connection and accepts no new one.
    pub fn cut(&self) {
        self.mood.send_replace(Mood::Cut);
    }

    /// Keeps connections open and forwards nothing.
    pub fn freeze(&self) {
        self.mood.send_replace(Mood::Frozen);
    }

    /// Keeps the present connections open and forwards nothing on them any more; new ones work.
    pub fn strand(&self) {
        self.strandings.send_modify(|count| *count += 1);
    }

    /// Forwards everything again.
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

/// Forwards bytes until an end closes, or the proxy is cut.
async fn pump(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, mut mood: watch::Receiver<Mood>) {
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
