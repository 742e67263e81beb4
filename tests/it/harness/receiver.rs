//! A customer's server: takes webhooks, verifies them with the standard's own library, reads the
//! session at once; misbehaves when told to.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use standardwebhooks::{Webhook, WebhookError};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::service::Caller;

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";

/// A webhook as it came.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    /// `webhook-id`.
    pub(crate) id: String,
    /// `webhook-timestamp`.
    pub(crate) timestamp: i64,
    /// How many signatures came with it.
    pub(crate) signatures: usize,
    headers: HeaderMap,
    pub(crate) body: Bytes,
    /// How many with the same id came before.
    pub(crate) copies_before: usize,
    /// What the API said of the session at this moment, if the receiver reads.
    pub(crate) read: Option<(StatusCode, Value)>,
}

impl Told {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Whether one of its signatures was made with this secret.
    pub(crate) fn is_signed_with(&self, secret: &str) -> bool {
        Webhook::new(secret).unwrap().verify(&self.body, &self.headers).is_ok()
    }

    /// The trace that it belongs to, if it says so.
    pub(crate) fn traceparent(&self) -> Option<&str> {
        self.headers.get("traceparent").map(|value| value.to_str().unwrap())
    }

    pub(crate) fn event_type(&self) -> String {
        self.json()["type"].as_str().unwrap().to_owned()
    }

    pub(crate) fn session_id(&self) -> Uuid {
        self.json()["data"]["session_id"].as_str().unwrap().parse().unwrap()
    }
}

/// What the receiver does with a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Say(u16),
    /// Never answers.
    Hang,
}

type Manner = Box<dyn Fn(&Told) -> Reply + Send + Sync>;

/// A receiver on a free port, until it is dropped.
pub(crate) struct Receiver {
    pub(crate) url: String,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

struct Shared {
    manner: Manner,
    told: Mutex<Vec<Told>>,
    unverified: Mutex<Vec<String>>,
    reader: Mutex<Option<Caller>>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        Self::that(|_| Reply::Say(204)).await
    }

    pub(crate) async fn that(manner: impl Fn(&Told) -> Reply + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared {
            manner: Box::new(manner),
            told: Mutex::default(),
            unverified: Mutex::default(),
            reader: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().fallback(take).with_state(Arc::clone(&shared));
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared, _serving: serving }
    }

    /// From now on each webhook's session is read the moment it arrives.
    pub(crate) fn reads(&self, caller: Caller) {
        *self.shared.reader.lock().unwrap() = Some(caller);
    }

    /// All webhooks so far, in the order in which they came; every one was verified.
    pub(crate) fn told(&self) -> Vec<Told> {
        assert_eq!(*self.shared.unverified.lock().unwrap(), [""; 0]);
        self.all_told()
    }

    /// All webhooks so far, whether they could be verified or not.
    pub(crate) fn all_told(&self) -> Vec<Told> {
        self.shared.told.lock().unwrap().clone()
    }
}

async fn take(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, &'static str) {
    if let Err(error) = verify(&headers, &body) {
        shared.unverified.lock().unwrap().push(error.to_string());
    }
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let mut told = Told {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp").parse().unwrap(),
        signatures: header("webhook-signature").split(' ').count(),
        headers,
        body,
        copies_before: 0,
        read: None,
    };
    let reader = shared.reader.lock().unwrap().clone();
    if let Some(reader) = reader {
        told.read = Some(reader.session(told.session_id()).await);
    }
    let reply = {
        let mut all = shared.told.lock().unwrap();
        told.copies_before = all.iter().filter(|other| other.id == told.id).count();
        let reply = (shared.manner)(&told);
        all.push(told);
        reply
    };
    match reply {
        Reply::Say(status) => (StatusCode::from_u16(status).unwrap(), "so I say"),
        Reply::Hang => std::future::pending().await,
    }
}

/// As the standard says; but some tests move the clock by days, and then the time is let pass.
fn verify(headers: &HeaderMap, body: &[u8]) -> Result<(), WebhookError> {
    let webhook = Webhook::new(SECRET)?;
    let verified = webhook.verify(body, headers);
    let is_other_time = matches!(
        verified,
        Err(WebhookError::FutureTimestampError | WebhookError::TimestampTooOldError)
    );
    if !is_other_time {
        return verified;
    }
    let header = |name: &str| headers[name].to_str().unwrap();
    let timestamp = header("webhook-timestamp").parse().unwrap();
    let expected = webhook.sign(header("webhook-id"), timestamp, body)?;
    let is_signed = header("webhook-signature").split(' ').any(|one| one == expected);
    is_signed.then_some(()).ok_or(WebhookError::InvalidSignature)
}
