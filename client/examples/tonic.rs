//! A gRPC service behind Sidle: health, which here requires a token like every other call. Run with `SIDLE_URL`,
//! `SIDLE_ISSUER` and `SIDLE_API_KEY` set.
#![allow(clippy::print_stdout, reason = "an example")]

use sidle_client::{Caller, Protect, Settings, Verifier};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

struct Guarded;

#[tonic::async_trait]
impl Health for Guarded {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let caller = Caller::of(&request)?;
        // A caller without the permission is answered PERMISSION_DENIED.
        caller.require("health.read")?;
        println!("asked by {}", caller.subject());
        Ok(Response::new(HealthCheckResponse { status: 1 }))
    }

    type WatchStream = tonic::codegen::BoxStream<HealthCheckResponse>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("this example does not watch"))
    }
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
    println!("listening on http://127.0.0.1:50052");
    let protected = Server::builder().layer(Protect::new(verifier)).add_service(HealthServer::new(Guarded));
    protected.serve("127.0.0.1:50052".parse()?).await?;
    Ok(())
}
