//! An HTTP service behind Sidle. Run with `SIDLE_URL`, `SIDLE_ISSUER` and `SIDLE_API_KEY` set, then
//! `curl -H "authorization: Bearer $(sidle token print)" http://127.0.0.1:8080/orders`.
#![allow(clippy::print_stdout, reason = "an example")]

use axum::routing::{get, post};
use axum::{Extension, Router};
use sidle_client::{Caller, Protect, Require, Settings, Verifier};

async fn list(Extension(caller): Extension<Caller>) -> String {
    format!("the orders of {} in the tenant {:?}\n", caller.subject(), caller.tenant())
}

async fn create(Extension(caller): Extension<Caller>) -> String {
    format!("an order, by {}\n", caller.subject())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let verifier = Verifier::start(Settings {
        replicas: vec![std::env::var("SIDLE_URL")?.parse()?],
        issuer: std::env::var("SIDLE_ISSUER")?,
        audience: "orders".to_owned(),
        api_key: std::env::var("SIDLE_API_KEY")?.into(),
        ..Settings::default()
    })?;
    verifier.ready().await;
    let app = Router::new()
        .route("/orders/new", post(create).route_layer(Require::new("orders.write")))
        .route("/orders", get(list))
        .layer(Protect::new(verifier));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
