//! A Kanidm for tests and the demo: the real 1.7.4 engine behind our own HTTP layer. See README.md.

mod auth;
mod credential;
mod dev;
mod engine;
mod entries;
mod error;
mod oauth2;
mod pages;
mod raw;
mod serve;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::get;
use compact_jwt::JwsHs256Signer;
use kanidmd_lib::prelude::Url;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use crate::dev::Faults;
use crate::engine::{Engine, Passwords};

const USAGE: &str = "usage: dev-kanidm [--port PORT] [--state-dir DIR] [--exit-with-stdin]";
const BODY_LIMIT: usize = 32 * 1024 * 1024;

/// Release of the engine, as Cargo.toml pins it.
const ENGINE: &str = "1.7.4";

pub type App = Arc<Host>;

/// The state that every handler needs.
pub struct Host {
    pub engine: Engine,
    pub faults: Faults,
    pub port: u16,
    /// Signs the session id a client must return between the steps of a sign-in.
    pub sessions: JwsHs256Signer,
}

#[derive(Default)]
struct Options {
    port: u16,
    state: Option<PathBuf>,
    exit_with_stdin: bool,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options::default();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value\n{USAGE}"));
            match arg.as_str() {
                "--port" => {
                    options.port = value()?.parse().map_err(|_| "--port is not a port")?;
                }
                "--state-dir" => options.state = Some(PathBuf::from(value()?)),
                "--exit-with-stdin" => options.exit_with_stdin = true,
                _ => return Err(format!("unknown argument {arg}\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("dev-kanidm: {why}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), String> {
    let options = Options::parse(std::env::args().skip(1))?;
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into()))
        .init();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        // An unoptimised engine needs more stack than the 2 MB a thread has by default.
        .thread_stack_size(16 * 1024 * 1024)
        .enable_all()
        .build()
        .map_err(|e| format!("no runtime: {e}"))?
        .block_on(async { tokio::spawn(run(options)).await.map_err(|e| e.to_string())? })
}

async fn run(options: Options) -> Result<(), String> {
    let (listener, listener6) =
        listen(options.port).await.map_err(|e| format!("cannot listen on port {}: {e}", options.port))?;
    let port = listener.local_addr().map_err(|e| e.to_string())?.port();
    let url = format!("http://localhost:{port}");
    let origin = Url::parse(&url).map_err(|e| e.to_string())?;
    let (engine, passwords) = Engine::boot(&origin, options.state.as_deref()).await?;
    let sessions = JwsHs256Signer::generate_hs256().map_err(|e| format!("no signer: {e:?}"))?;
    let app = Arc::new(Host { engine, faults: Faults::default(), port, sessions });
    let router = router(app);

    announce(&url, &passwords);
    if let Some(listener6) = listener6 {
        tokio::spawn(serve::accept(listener6, router.clone()));
    }
    let serving = serve::accept(listener, router);
    if options.exit_with_stdin {
        tokio::select! {
            () = serving => {}
            () = end_of_stdin() => {}
        }
    } else {
        serving.await;
    }
    Ok(())
}

/// `localhost` may resolve to either address, so no other program may have the same port on the other one.
async fn listen(port: u16) -> io::Result<(TcpListener, Option<TcpListener>)> {
    let mut attempts = if port == 0 { 16 } else { 1 };
    loop {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        match TcpListener::bind(("::1", listener.local_addr()?.port())).await {
            Ok(listener6) => return Ok((listener, Some(listener6))),
            Err(taken) if taken.kind() == io::ErrorKind::AddrInUse => {
                attempts -= 1;
                if attempts == 0 {
                    return Err(taken);
                }
            }
            Err(_) => return Ok((listener, None)), // no IPv6 here
        }
    }
}

fn router(app: App) -> Router {
    Router::new()
        .route("/status", get(|| async { axum::Json(true) }))
        .merge(auth::routes())
        .merge(entries::routes())
        .merge(raw::routes())
        .merge(credential::routes())
        .merge(oauth2::routes())
        .merge(pages::routes())
        .fallback(|| async { (StatusCode::NOT_FOUND, "Route not found") })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(axum::middleware::from_fn_with_state(app.clone(), dev::faults))
        .merge(dev::routes())
        .layer(axum::middleware::map_response(with_version))
        .with_state(app)
}

/// Says which release answers, as Kanidm does.
async fn with_version(mut response: Response) -> Response {
    response.headers_mut().insert(kanidm_proto::constants::KVERSION, HeaderValue::from_static(ENGINE));
    response
}

/// The one line on standard output that says the server is ready.
fn announce(url: &str, passwords: &Passwords) {
    println!(
        "{}",
        serde_json::json!({
            "url": url,
            "admin_password": passwords.admin,
            "idm_admin_password": passwords.idm_admin,
            "engine": ENGINE,
        })
    );
}

async fn end_of_stdin() {
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 1024];
    while let Ok(1..) = stdin.read(&mut ignored).await {}
}
