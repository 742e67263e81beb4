//! Spans that go to a collector, in batches and beside everything else: what the collector does not
//! take in time is dropped.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::{Attribute, Doing};
use crate::event::TraceParent;

/// For one batch of spans.
const DEADLINE: Duration = Duration::from_secs(5);
/// A collector says less.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Set once the collector is known; a process exports to one.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// A span, if its trace is exported.
pub(crate) struct Span(Option<opentelemetry_sdk::trace::Span>);

impl Span {
    /// Begins a span of the trace.
    pub(crate) fn begin(doing: Doing, trace: Option<TraceParent>, at: DateTime<Utc>) -> Self {
        let trace = trace.filter(|trace| trace.is_sampled());
        let (Some(tracer), Some(trace)) = (TRACER.get(), trace) else { return Self(None) };
        let (name, kind) = match doing {
            Doing::TakeEvent => ("take event", SpanKind::Consumer),
            Doing::AttemptWebhook => ("attempt webhook", SpanKind::Client),
        };
        let parent = SpanContext::new(
            TraceId::from_bytes(trace.trace_id),
            SpanId::from_bytes(trace.parent_id),
            TraceFlags::new(trace.flags),
            true,
            TraceState::default(),
        );
        let parent = Context::new().with_remote_span_context(parent);
        let builder = tracer.span_builder(name).with_kind(kind).with_start_time(time(at));
        Self(Some(tracer.build_with_context(builder, &parent)))
    }

    /// The trace as it goes on from this span.
    pub(crate) fn trace(&self) -> Option<TraceParent> {
        let context = self.0.as_ref()?.span_context();
        Some(TraceParent {
            trace_id: context.trace_id().to_bytes(),
            parent_id: context.span_id().to_bytes(),
            flags: context.trace_flags().to_u8(),
        })
    }

    /// Ends it, with what there is to say of it.
    pub(crate) fn end(
        self,
        at: DateTime<Utc>,
        is_good: bool,
        attributes: impl FnOnce() -> Vec<Attribute>,
    ) {
        let Some(mut span) = self.0 else { return };
        span.set_attributes(attributes().into_iter().map(|(key, value)| KeyValue::new(key, value)));
        if !is_good {
            span.set_status(Status::error(""));
        }
        span.end_with_timestamp(time(at));
    }
}

fn time(at: DateTime<Utc>) -> SystemTime {
    at.into()
}

/// Exports spans until it is finished.
pub(crate) struct Export(SdkTracerProvider);

impl Export {
    /// Exports what has not been yet.
    pub(crate) async fn finish(self) {
        // It waits for its own thread, which waits for this runtime.
        let finishing = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(DEADLINE));
        if !matches!(finishing.await, Ok(Ok(()))) {
            tracing::warn!("the last spans could not be exported");
        }
    }
}

/// Exports spans to the collector at this URL from now on.
pub(crate) fn start(endpoint: &str, tls: rustls::ClientConfig) -> anyhow::Result<Export> {
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    let http = Client::builder(TokioExecutor::new()).build(connector);
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Collector { http, runtime: Handle::current() })
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(DEADLINE)
        .build()?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        // Whoever began a trace decides.
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)))
        .with_resource(Resource::builder().with_service_name("finalizer").build())
        .build();
    // A second start (tests in one process) keeps the first.
    let _ = TRACER.set(provider.tracer("finalizer"));
    Ok(Export(provider))
}

/// Our HTTP client, for a thread that has no runtime of its own.
#[derive(Debug)]
struct Collector {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let asking = async move {
            let (head, body) = http.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, body))
        };
        self.runtime.spawn(async move { timeout(DEADLINE, asking).await }).await??
    }
}
