//! Fetches a document of the operator's choice: https, one deadline, a bounded body, no redirects.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use url::{Host, Url};

use super::FetchError;
use crate::courier::tls;

/// For everything, from the name's resolution to the last byte.
const DEADLINE: Duration = Duration::from_secs(5);
/// A document of very many keys is smaller.
const LONGEST_DOCUMENT: usize = 256 * 1024;
const AGENT: &str = concat!("finalizer/", env!("CARGO_PKG_VERSION"));

/// Where the document is.
pub(super) struct Source {
    url: Url,
    pub(super) deadline: Duration,
}

impl Source {
    /// At an https URL; at an address of this very machine http will do.
    pub(super) fn new(url: &str) -> Option<Self> {
        let url = Url::parse(url).ok()?;
        let is_loopback = match url.host()? {
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
            Host::Domain(_) => false,
        };
        let is_safe = url.scheme() == "https" || (url.scheme() == "http" && is_loopback);
        let is_plain = url.username().is_empty() && url.password().is_none();
        // The HTTP library reads URLs more strictly.
        Uri::try_from(url.as_str()).ok()?;
        (is_safe && is_plain && url.fragment().is_none())
            .then_some(Self { url, deadline: DEADLINE })
    }

    /// The document as it is now.
    pub(super) async fn fetch(&self) -> Result<Bytes, FetchError> {
        let fetching = tokio::time::timeout(self.deadline, self.get());
        fetching.await.unwrap_or(Err(FetchError::Timeout(self.deadline)))
    }

    async fn get(&self) -> Result<Bytes, FetchError> {
        // A URL with the scheme http or https has both.
        let host = self.url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.url.port_or_known_default().unwrap_or_default();
        let stream = TcpStream::connect((host, port)).await.map_err(FetchError::Connect)?;
        if self.url.scheme() == "http" {
            return self.ask(stream).await;
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| FetchError::Connect(std::io::Error::other(error)))?;
        let stream = tls(Vec::new()).connect(name, stream).await.map_err(FetchError::Connect)?;
        self.ask(stream).await
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Bytes, FetchError> {
        let failed = |error: hyper::Error| FetchError::Answer(error.into());
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let asking = async {
            let response = sender.send_request(self.request()).await.map_err(failed)?;
            if response.status() != StatusCode::OK {
                return Err(FetchError::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), LONGEST_DOCUMENT).collect().await;
            Ok(body.map_err(FetchError::Answer)?.to_bytes())
        };
        tokio::pin!(asking);
        tokio::select! {
            asked = &mut asking => asked,
            // What it has read may be the whole answer.
            _ = connection => asking.await,
        }
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let target = &self.url[url::Position::BeforePath..url::Position::AfterQuery];
        let authority = &self.url[url::Position::BeforeHost..url::Position::AfterPort];
        Request::get(target)
            .header(HOST, authority)
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, "application/json")
            .header(CONNECTION, "close")
            .body(Empty::new())
            .expect("the parts of a URL are fit for a request")
    }
}
