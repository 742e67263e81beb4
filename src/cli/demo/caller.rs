//! Calls the API over HTTP, as a voice worker and as a customer do.

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Somebody with a key to the API.
#[derive(Clone)]
pub(super) struct Caller {
    http: Client<HttpConnector, Full<Bytes>>,
    url: String,
    key: String,
}

impl Caller {
    /// A caller of the API at this URL.
    pub(super) fn new(url: &str, key: &str) -> Self {
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self { http, url: url.to_owned(), key: key.to_owned() }
    }

    /// A session as the API shows it; the status alone if it does not.
    pub(super) async fn session(
        &self,
        session_id: &str,
    ) -> anyhow::Result<Result<Value, StatusCode>> {
        let request = Request::get(format!("{}/api/billing/sessions/{session_id}/", self.url))
            .header("x-api-key", &self.key)
            .body(Full::default())?;
        let (status, body) = self.send(request).await?;
        if status != StatusCode::OK {
            return Ok(Err(status));
        }
        let mut envelope: Value = serde_json::from_slice(&body)?;
        Ok(Ok(envelope["data"].take()))
    }

    /// Sends an event; the API's answer to it.
    pub(super) async fn send_event(&self, event: &Value) -> anyhow::Result<Value> {
        let request = Request::post(format!("{}/api/events/", self.url))
            .header("x-api-key", &self.key)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(event.to_string()))?;
        let (status, body) = self.send(request).await?;
        let mut envelope: Value = serde_json::from_slice(&body).context("the answer is no JSON")?;
        anyhow::ensure!(status == StatusCode::OK, "the API said {status}: {}", envelope["message"]);
        Ok(envelope["data"][0].take())
    }

    /// The first bytes at a URL, asked for as a player does. No key: the URL must do.
    pub(super) async fn first_bytes(&self, url: &str) -> anyhow::Result<Bytes> {
        let request = Request::get(url).header(header::RANGE, "bytes=0-3").body(Full::default())?;
        let (status, body) = self.send(request).await?;
        anyhow::ensure!(status == StatusCode::PARTIAL_CONTENT, "the recording's URL said {status}");
        Ok(body)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
        let response = self.http.request(request).await.context("the API cannot be reached")?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}
