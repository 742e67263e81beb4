//! Receives Finalizer's webhooks: verifies each one, then reads the session it tells of.
//!
//! The signature covers the bytes as they came. Verify first, with the raw body; parse afterwards.
#![expect(clippy::print_stdout, reason = "it says where it listens")]

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, CONTENT_LENGTH, HOST};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use clap::Parser;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use standardwebhooks::Webhook;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Url;
use uuid::Uuid;

const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// Receives Finalizer's webhooks: verifies each one, then reads the session it tells of.
#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "127.0.0.1:9000", value_name = "HOST:PORT")]
    listen: String,
    /// Where Finalizer's API is.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    api_url: Url,
    /// One line per request is added to it.
    #[arg(long, default_value = "webhooks.ndjson")]
    log: PathBuf,
}

/// What all requests share.
struct Receiver {
    webhook: Webhook,
    api: Api,
    log: Mutex<File>,
}

/// What is read of a webhook's body.
#[derive(Deserialize)]
struct Event {
    r#type: String,
    data: EventData,
}

#[derive(Deserialize)]
struct EventData {
    session_id: Option<Uuid>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Options { listen, api_url, log } = Options::parse();
    let receiver = Receiver {
        webhook: Webhook::new(&setting("WEBHOOK_SECRET")?).context("WEBHOOK_SECRET")?,
        api: Api::new(api_url, setting("FINALIZER_API_KEY")?)?,
        log: Mutex::new(File::options().create(true).append(true).open(log)?),
    };
    let listener = TcpListener::bind(&listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let router = Router::new().fallback_service(post(receive).with_state(Arc::new(receiver)));
    axum::serve(listener, router).await?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "secrets come from the environment")]
fn setting(name: &str) -> anyhow::Result<String> {
    std::env::var(name).ok().with_context(|| format!("set {name} in the environment"))
}

async fn receive(State(receiver): State<Arc<Receiver>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    if content_length(&head.headers).is_none_or(|length| length > MAX_BODY_BYTES) {
        return (StatusCode::PAYLOAD_TOO_LARGE, [(CONNECTION, "close")]).into_response();
    }
    match to_bytes(body, MAX_BODY_BYTES).await {
        Ok(body) => receiver.take(&head.headers, &body).await.into_response(),
        // The connection broke: the webhook is sent again.
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl Receiver {
    /// The status to answer with. Whatever is not 2xx is sent again later, under the same
    /// `webhook-id`.
    async fn take(&self, headers: &HeaderMap, body: &[u8]) -> StatusCode {
        let webhook_id = headers.get("webhook-id").and_then(|id| id.to_str().ok());
        let sha256 = hex::encode(Sha256::digest(body));
        let Ok(event) = self.verify(headers, body) else {
            self.note(&json!({ "webhook_id": webhook_id, "verified": false, "sha256": sha256 }));
            return StatusCode::BAD_REQUEST;
        };
        let session_id = event.data.session_id;
        let status = match session_id {
            // 0: the API did not answer.
            Some(id) => Some(self.api.read_session(id).await.map_or(0, |status| status.as_u16())),
            None => None,
        };
        self.note(&json!({
            "webhook_id": webhook_id, "type": event.r#type, "session_id": session_id,
            "verified": true, "status": status, "sha256": sha256,
        }));
        match status {
            None | Some(200) => StatusCode::NO_CONTENT,
            Some(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn verify(&self, headers: &HeaderMap, body: &[u8]) -> anyhow::Result<Event> {
        self.webhook.verify(body, headers)?;
        Ok(serde_json::from_slice(body)?)
    }

    fn note(&self, line: &Value) {
        let mut log = self.log.lock().expect("writing a line does not panic");
        writeln!(log, "{line}").expect("the log can be written");
    }
}

/// Finalizer's API. Any HTTP client will do; this one makes a connection for each request.
struct Api {
    url: Url,
    host: String,
    port: u16,
    key: String,
    /// For https.
    tls: Option<TlsConnector>,
}

impl Api {
    fn new(url: Url, key: String) -> anyhow::Result<Self> {
        let host = url.host_str().context("the API's URL names no host")?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().context("the API's URL names no port")?;
        let tls = (url.scheme() == "https").then(|| {
            let roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
            let config = ClientConfig::builder().with_root_certificates(roots);
            TlsConnector::from(Arc::new(config.with_no_client_auth()))
        });
        Ok(Self { url, host, port, key, tls })
    }

    /// GETs the session; the status.
    async fn read_session(&self, session_id: Uuid) -> anyhow::Result<StatusCode> {
        timeout(API_TIMEOUT, async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            match &self.tls {
                None => self.get_session(stream, session_id).await,
                Some(tls) => {
                    let name = ServerName::try_from(self.host.clone())?;
                    self.get_session(tls.connect(name, stream).await?, session_id).await
                }
            }
        })
        .await?
    }

    async fn get_session<S>(&self, stream: S, session_id: Uuid) -> anyhow::Result<StatusCode>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let prefix = self.url.path().trim_end_matches('/');
        let request = Request::get(format!("{prefix}/api/billing/sessions/{session_id}/"))
            .header(HOST, self.url.authority())
            .header("X-API-Key", &self.key)
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status == StatusCode::OK {
            serde_json::from_slice::<IgnoredAny>(&body)?;
        }
        Ok(status)
    }
}
