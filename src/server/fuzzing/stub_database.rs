//! Something that speaks enough of Postgres's protocol for a transaction to begin, and answers every statement in it with
//! "cancelled": so a call gets as far as its first question to the database, and no further.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// SQLSTATE of a statement that was cancelled, which Sidle answers as `UNAVAILABLE`.
const CANCELLED: &[u8] = b"SERROR\0VERROR\0C57014\0Mthere is no database here\0\0";

/// Answers connections for as long as the runtime runs.
pub(super) async fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    Ok(address)
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let length = stream.read_u32().await?;
    read(&mut stream, length).await?;
    let (mut begun, mut asked) = (false, false);
    send(&mut stream, &[(b'R', &[0; 4]), (b'Z', b"I")]).await?;
    loop {
        let kind = stream.read_u8().await?;
        let length = stream.read_u32().await?;
        let body = read(&mut stream, length).await?;
        match kind {
            b'Q' => {
                // "BEGIN; SELECT scope_begin(...)", "ROLLBACK", "COMMIT", or what a connection is asked when it is new.
                begun = body.starts_with(b"BEGIN");
                complete(&mut stream, &body).await?;
            }
            b'S' if asked => send(&mut stream, &[(b'E', CANCELLED)]).await?,
            b'S' => {}
            b'X' => return Ok(()),
            _ => {
                asked = true;
                continue;
            }
        }
        let state = if !begun {
            b"I"
        } else if asked {
            b"E"
        } else {
            b"T"
        };
        asked &= begun && kind != b'Q';
        send(&mut stream, &[(b'Z', state.as_slice())]).await?;
    }
}

/// Answers every statement of a simple query as done, and the one that asks something with a row.
async fn complete(stream: &mut TcpStream, query: &[u8]) -> io::Result<()> {
    let statements = query.split(|byte| *byte == b';').count();
    let asks = |what: &str| query.windows(what.len()).any(|part| part == what.as_bytes());
    let row = if asks("transaction_read_only") { Some("off") } else { asks("pg_backend_pid").then_some("1") };
    let (description, values) = row.map(|value| (description(value), values(value))).unwrap_or_default();
    let mut answers = vec![(b'C', b"SET\0".as_slice()); statements];
    if row.is_some() {
        // The last statement is the one that asks.
        let at = answers.len().saturating_sub(1);
        answers.splice(at..at, [(b'T', description.as_slice()), (b'D', values.as_slice())]);
    }
    send(stream, &answers).await
}

/// That a row has one column, a number where its value is one.
fn description(value: &str) -> Vec<u8> {
    let (kind, size): (i32, i16) = if value.parse::<i32>().is_ok() { (23, 4) } else { (25, -1) };
    let mut body = vec![0, 1];
    body.extend_from_slice(b"value\0");
    body.extend_from_slice(&[0; 6]);
    body.extend_from_slice(&kind.to_be_bytes());
    body.extend_from_slice(&size.to_be_bytes());
    body.extend_from_slice(&(-1_i32).to_be_bytes());
    body.extend_from_slice(&[0; 2]);
    body
}

/// A row of one column.
fn values(value: &str) -> Vec<u8> {
    let mut body = vec![0, 1];
    body.extend_from_slice(&u32::try_from(value.len()).unwrap_or_default().to_be_bytes());
    body.extend_from_slice(value.as_bytes());
    body
}

/// The rest of a message, whose length counts itself.
async fn read(stream: &mut TcpStream, length: u32) -> io::Result<Vec<u8>> {
    let mut body = vec![0; usize::try_from(length).unwrap_or_default().saturating_sub(4)];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

async fn send(stream: &mut TcpStream, messages: &[(u8, &[u8])]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for (kind, body) in messages {
        bytes.push(*kind);
        bytes.extend_from_slice(&u32::try_from(body.len() + 4).unwrap_or_default().to_be_bytes());
        bytes.extend_from_slice(body);
    }
    stream.write_all(&bytes).await
}
