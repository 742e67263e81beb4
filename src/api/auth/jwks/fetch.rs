//! Fetches a document of the operator's choice: https, one deadline, a bounded body, no redirects.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
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
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(Vec::new()).config().as_ref().clone())
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let response = client.request(self.request()).await.map_err(|error| {
            let is_connect = error.is_connect();
            if is_connect {
                FetchError::Connect(error.into())
            } else {
                FetchError::Answer(error.into())
            }
        })?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), LONGEST_DOCUMENT).collect().await;
        Ok(body.map_err(|error| FetchError::Answer(anyhow::Error::from_boxed(error)))?.to_bytes())
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        Request::get(self.url.as_str())
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, "application/json")
            .body(Empty::new())
            .expect("the URL was read as one of a request")
    }
}
