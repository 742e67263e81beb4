//! A subscriber of the demo: verifies each webhook with the published library of Standard
//! Webhooks, and reads the session the moment it is told of it.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::caller::Caller;

/// What a receiver saw of one webhook.
#[derive(Debug)]
pub(super) struct Received {
    /// `session.finalized`, …
    pub(super) event_type: String,
    /// The session it tells of.
    pub(super) session_id: String,
    /// The signature is right, says the library.
    pub(super) is_verified: bool,
    /// The API showed the session at that moment.
    pub(super) is_readable: bool,
}

struct Subscriber {
    webhook: Webhook,
    customer: Caller,
    seen: mpsc::UnboundedSender<Received>,
}

/// Serves on the listener until the process ends; what was received comes out of the channel.
pub(super) fn start(
    listener: TcpListener,
    secret: &str,
    customer: Caller,
) -> anyhow::Result<mpsc::UnboundedReceiver<Received>> {
    let (seen, received) = mpsc::unbounded_channel();
    let subscriber = Arc::new(Subscriber { webhook: Webhook::new(secret)?, customer, seen });
    let router = Router::new().route("/webhooks", post(receive)).with_state(subscriber);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(received)
}

/// Where webhooks to this listener go.
pub(super) fn url(address: SocketAddr) -> String {
    format!("http://{address}/webhooks")
}

async fn receive(
    State(subscriber): State<Arc<Subscriber>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let Ok(message) = serde_json::from_slice::<Value>(&body) else {
        return StatusCode::BAD_REQUEST;
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let session_id = text(&message["data"]["session_id"]);
    let session = subscriber.customer.session(&session_id).await;
    let webhook = Received {
        event_type: text(&message["type"]),
        is_verified: subscriber.webhook.verify(&body, &headers).is_ok(),
        is_readable: matches!(&session, Ok(Ok(data)) if !data["finalized_at"].is_null()),
        session_id,
    };
    // Nobody listens any more: the demo is over.
    let _ = subscriber.seen.send(webhook);
    StatusCode::NO_CONTENT
}
