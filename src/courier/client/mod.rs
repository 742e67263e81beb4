//! POSTs to receivers that cannot be trusted: vetted addresses, one deadline, a bounded response.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Extensions, HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::connect::{ConnectError, Connector, Line, Resolve, SystemResolver};
use super::guard::{Guard, GuardError};

/// Of a response's body so much is kept; a longer one costs its connection.
pub const MAX_BODY_BYTES: usize = 16 * 1024;
/// In so many pieces: chunks of a byte each would cost more than they are worth.
const MAX_BODY_PIECES: usize = 256;
/// Of a response's status line and headers so much is kept.
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// A head that needs more than this is refused.
const MAX_READ_BUFFER_BYTES: usize = 32 * 1024;
/// Receivers close idle connections after five seconds or more: ours are closed before that, so
/// that no request meets a connection that is just being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
const IDLE_CONNECTIONS_PER_HOST: usize = 64;
const AGENT: &str = concat!("finalizer/", env!("CARGO_PKG_VERSION"));

/// The HTTP client of webhooks: HTTP/1.1, no redirects, no proxies, no cookies, no decompression.
#[derive(Clone)]
pub struct Client {
    guard: Arc<Guard>,
    http: legacy::Client<Connector, Full<Bytes>>,
}

/// What else a client can be told.
#[derive(Default)]
pub struct ClientOptions {
    /// Authorities to trust beside the public ones.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Who resolves names; the system, if not given.
    pub resolver: Option<Arc<dyn Resolve>>,
}

/// What came of a POST.
#[derive(Debug, Clone)]
pub struct Posted {
    /// The receiver's status, if it said one.
    pub status: Option<u16>,
    /// What went wrong. There may be a status nevertheless, when the trouble came after it.
    pub error: Option<PostError>,
    /// Status line and headers, cut.
    pub head: Option<String>,
    /// The beginning of the body.
    pub body: Bytes,
    /// What the receiver said in `Retry-After`.
    pub retry_after: Option<String>,
    /// The address connected to.
    pub address: Option<SocketAddr>,
    /// The connection had carried an earlier request.
    pub is_connection_reused: bool,
    /// How long it all took.
    pub duration: Duration,
}

/// What can go wrong with a POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostError {
    /// The URL may not be called, whatever it resolves to.
    InvalidUrl,
    /// The name could not be resolved.
    Dns,
    /// The URL leads to an address that may not be called.
    RefusedAddress,
    /// No connection.
    Connect,
    /// A connection, but no TLS: most often the certificate.
    Tls,
    /// Not done in time.
    Timeout,
    /// The connection was closed before the response was whole.
    Closed,
    /// The response is not HTTP, or its head is too long.
    Protocol,
}

impl PostError {
    /// The word that stands in the record of an attempt.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidUrl => "invalid_url",
            Self::Dns => "dns",
            Self::RefusedAddress => "refused_address",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Protocol => "protocol",
        }
    }
}

impl From<GuardError> for PostError {
    fn from(error: GuardError) -> Self {
        match error {
            GuardError::Address | GuardError::Http => Self::RefusedAddress,
            GuardError::TooLong
            | GuardError::Character
            | GuardError::NotAUrl
            | GuardError::Scheme
            | GuardError::Userinfo
            | GuardError::Name
            | GuardError::Port => Self::InvalidUrl,
        }
    }
}

impl From<&ConnectError> for PostError {
    fn from(error: &ConnectError) -> Self {
        match error {
            ConnectError::NoHost => Self::InvalidUrl,
            ConnectError::Dns(_) => Self::Dns,
            ConnectError::Refused(_) => Self::RefusedAddress,
            ConnectError::Connect(_) => Self::Connect,
            ConnectError::Tls(_) => Self::Tls,
            ConnectError::Timeout => Self::Timeout,
        }
    }
}

impl Client {
    /// A client that goes where the guard lets it.
    pub fn new(guard: Arc<Guard>, options: ClientOptions) -> Self {
        let ClientOptions { extra_roots, resolver } = options;
        let connector = Connector {
            guard: Arc::clone(&guard),
            resolver: resolver.unwrap_or_else(|| Arc::new(SystemResolver::default())),
            tls: tls(extra_roots),
        };
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_HOST)
            .http1_max_buf_size(MAX_READ_BUFFER_BYTES)
            // A pooled connection may be found closed. A request of which nothing was written
            // goes to another one, in the same attempt; one that was begun is never repeated.
            .retry_canceled_requests(true)
            .build(connector);
        Self { guard, http }
    }

    /// POSTs JSON. The deadline covers everything, from the name's resolution to the last byte of
    /// the response that is kept.
    pub async fn post(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        deadline: Duration,
    ) -> Posted {
        let begin = Instant::now();
        let mut posted = Posted::nothing();
        match self.request(url, headers, body) {
            Ok(mut request) => {
                let connection = capture_connection(&mut request);
                self.exchange(request, begin + deadline, &mut posted).await;
                posted.note(&connection);
            }
            Err(error) => posted.error = Some(error),
        }
        posted.duration = begin.elapsed();
        posted
    }

    fn request(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, PostError> {
        let url = self.guard.check_url(url)?;
        let uri = Uri::try_from(url.as_str()).map_err(|_| PostError::InvalidUrl)?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        Ok(request)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, end: Instant, posted: &mut Posted) {
        match timeout_at(end, self.http.request(request)).await {
            Ok(Ok(response)) => posted.read(response, end).await,
            Ok(Err(error)) => posted.error = Some(classify(&error)),
            Err(_) => posted.error = Some(PostError::Timeout),
        }
    }
}

impl Posted {
    pub(super) fn nothing() -> Self {
        Self {
            status: None,
            error: None,
            head: None,
            body: Bytes::new(),
            retry_after: None,
            address: None,
            is_connection_reused: false,
            duration: Duration::ZERO,
        }
    }

    async fn read(&mut self, response: Response<Incoming>, end: Instant) {
        self.status = Some(response.status().as_u16());
        self.head = Some(head(&response));
        let retry_after = response.headers().get(RETRY_AFTER);
        self.retry_after = retry_after.and_then(|value| Some(value.to_str().ok()?.to_owned()));
        let mut kept = BytesMut::new();
        self.error = match timeout_at(end, keep(response.into_body(), &mut kept)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(classify(&error)),
            Err(_) => Some(PostError::Timeout),
        };
        self.body = kept.freeze();
    }

    fn note(&mut self, connection: &CaptureConnection) {
        let mut extensions = Extensions::new();
        if let Some(connected) = connection.connection_metadata().as_ref() {
            connected.get_extras(&mut extensions);
        }
        if let Some(line) = extensions.get::<Arc<Line>>() {
            self.address = Some(line.peer);
            self.is_connection_reused = line.requests.fetch_add(1, Ordering::Relaxed) > 0;
        }
    }
}

/// Keeps the beginning of a body. What comes after is not read: when the rest is dropped, so is
/// the connection.
async fn keep(mut body: Incoming, kept: &mut BytesMut) -> Result<(), hyper::Error> {
    for _ in 0..MAX_BODY_PIECES {
        let Some(frame) = body.frame().await else { break };
        let Ok(data) = frame?.into_data() else { continue };
        let room = MAX_BODY_BYTES - kept.len();
        kept.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            break;
        }
    }
    Ok(())
}

fn head(response: &Response<Incoming>) -> String {
    let mut head = format!("{:?} {}", response.version(), response.status());
    for (name, value) in response.headers() {
        if head.len() > MAX_HEAD_BYTES {
            break;
        }
        head.push('\n');
        head.push_str(name.as_str());
        head.push_str(": ");
        head.push_str(&String::from_utf8_lossy(value.as_bytes()));
    }
    head.truncate(head.floor_char_boundary(MAX_HEAD_BYTES));
    head
}

fn classify(error: &(dyn StdError + 'static)) -> PostError {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<ConnectError>() {
            return error.into();
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return if is_protocol(error) { PostError::Protocol } else { PostError::Closed };
        }
        cause = error.source();
    }
    PostError::Closed
}

/// What came is no HTTP, or too much of it. Of a body the HTTP library tells this by the kind of
/// the error that it wraps, as does the connection when an answer is too long.
fn is_protocol(error: &hyper::Error) -> bool {
    let wrapped = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let is_unfit = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
    };
    error.is_parse() || wrapped.is_some_and(is_unfit)
}

/// TLS to servers that a public authority, or one of these, vouches for.
pub(crate) fn tls(extra_roots: Vec<CertificateDer<'static>>) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    roots.add_parsable_certificates(extra_roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

#[cfg(test)]
mod tests;
