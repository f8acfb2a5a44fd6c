//! Traces and metrics as a receiver of OTLP sees them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use sidle::proto;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::kanidm_login::person;
use crate::support::process::Process;
use crate::support::{Setup, kanidm};

const REDIRECT: &str = "https://app.example/callback";

/// What was exported.
#[derive(Clone, Default)]
struct Receiver {
    spans: Arc<Mutex<Vec<Span>>>,
    metrics: Arc<Mutex<Vec<String>>>,
    headers: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let team =
            request.metadata().get("x-team").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        self.headers.lock().unwrap().push(team);
        let spans = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.spans.lock().unwrap().extend(spans.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let scopes = request.into_inner().resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
        self.metrics.lock().unwrap().extend(scopes.flat_map(|scope| scope.metrics).map(|metric| metric.name));
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

impl Receiver {
    async fn start() -> (Self, SocketAddr) {
        let receiver = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(receiver.clone()))
            .add_service(MetricsServiceServer::new(receiver.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (receiver, address)
    }
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()?;
    Some(match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

#[tokio::test]
async fn a_call_is_one_trace_from_the_caller_through_sql_to_kanidm() {
    let kanidm = kanidm().await;
    let access = kanidm.prepare(REDIRECT).await.unwrap();
    let (receiver, address) = Receiver::start().await;
    let setup = Setup::new().await.with_kanidm(&kanidm, &access);
    let setup = setup.with("TELEMETRY__OTLP_ENDPOINT", &format!("http://{address}"));
    let setup = setup.with("TELEMETRY__OTLP_HEADERS", "x-team=identity").with("TELEMETRY__TRACE_RATIO", "0.0");
    let server = Process::start(&setup).await;

    let (_, bearer) = person(&kanidm, "ann").await;
    let mut calls = server.client("").authenticate;
    let start = proto::StartKanidmLoginRequest { redirect_uri: REDIRECT.to_owned(), ..Default::default() };
    let begun = calls.start_kanidm_login(start).await.unwrap().into_inner();
    let back = kanidm.authorise(&bearer, &begun.authorization_url).await.unwrap();
    let mut complete = Request::new(proto::CompleteKanidmLoginRequest {
        state: back.state,
        code: back.code,
        login_secret: begun.login_secret,
    });
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    complete.metadata_mut().insert("traceparent", format!("00-{trace}-{parent}-01").parse().unwrap());
    let refused = calls.complete_kanidm_login(complete).await.unwrap_err();
    assert_eq!(crate::look::reason(&refused), "PERSON_NOT_LINKED", "nobody here is that person");
    // The rest is exported when the service ends.
    server.stop().await;

    let spans = receiver.spans.lock().unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let of_the_trace: Vec<&Span> = spans.iter().filter(|span| hex(&span.trace_id) == trace).collect();
    assert_eq!(of_the_trace.len(), spans.len(), "nothing that begins here is kept");
    let kind = |kind: SpanKind| of_the_trace.iter().filter(move |span| span.kind == kind as i32);
    let [rpc] = kind(SpanKind::Server).collect::<Vec<_>>()[..] else { panic!("one call: {of_the_trace:#?}") };
    assert_eq!((hex(&rpc.parent_span_id).as_str(), rpc.name.as_str()), (parent, METHOD));
    for (key, expected) in
        [("rpc.system.name", "grpc"), ("rpc.method", METHOD), ("rpc.response.status_code", "PERMISSION_DENIED")]
    {
        assert_eq!(attribute(&rpc.attributes, key).as_deref(), Some(expected), "{key}");
    }
    assert!(attribute(&rpc.attributes, "correlation_id").is_some());
    let client = |key: &str| {
        let found = kind(SpanKind::Client).filter_map(|span| Some((span, attribute(&span.attributes, key)?)));
        found
            .inspect(|(span, _)| assert_eq!(span.parent_span_id, rpc.span_id))
            .map(|(_, value)| value)
            .collect::<Vec<_>>()
    };
    let queries = client("db.query.text");
    assert!(queries.iter().any(|query| query.contains("kanidm_logins")), "{queries:?}");
    assert!(queries.iter().all(|query| !query.contains("ann")), "without values: {queries:?}");
    assert!(client("http.request.method").contains(&"POST".to_owned()), "the exchange of the code at Kanidm");

    let metrics = receiver.metrics.lock().unwrap();
    for name in ["rpc.server.call.duration", "db.client.operation.duration", "http.client.request.duration"] {
        assert!(metrics.iter().any(|metric| metric == name), "{name} is not among {metrics:?}");
    }
    assert!(receiver.headers.lock().unwrap().iter().all(|team| team == "identity"));
}

const METHOD: &str = "sidle.v1.AuthenticateService/CompleteKanidmLogin";
