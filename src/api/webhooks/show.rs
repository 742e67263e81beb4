//! Endpoints, deliveries and redeliveries as people see them, here and on the command line.

use std::net::SocketAddr;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::courier::{is_public, open_headers, open_secrets};
use crate::secrets::Keyring;
use crate::store::{
    Attempt, Delivery, DeliveryState, DeliveryStory, Endpoint, EndpointHealth, Redelivery,
    RedeliveryState,
};
use crate::webhook::{EventType, Failing, PayloadKind};

/// Who gets webhooks, and how they fare. Of its secrets only until when old ones sign along, of its
/// headers the names; null when they cannot be opened.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Endpoint)]
pub struct EndpointData {
    id: Uuid,
    url: String,
    /// Null: it hears of everyone's sessions.
    owner: Option<i64>,
    /// Null: of every tenant.
    tenant_id: Option<String>,
    /// Null: of every character.
    character_slug: Option<String>,
    /// Empty: of every type.
    event_types: Vec<EventType>,
    payload: PayloadKind,
    header_names: Option<Vec<String>>,
    timeout_seconds: u32,
    rate_limit_per_minute: Option<u32>,
    disabled_at: Option<DateTime<Utc>>,
    /// `by_hand`, `gone` (it said 410) or `failing`.
    disabled_reason: Option<String>,
    failing_since: Option<DateTime<Utc>>,
    failures: u32,
    percent_to_disabled: u32,
    /// It wants no requests until then.
    paused_until: Option<DateTime<Utc>>,
    old_secrets_end_at: Option<Vec<DateTime<Utc>>>,
    created_at: DateTime<Utc>,
}

/// An endpoint with its new secret, this once.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EndpointWithSecret)]
pub struct EndpointSecretData {
    #[serde(flatten)]
    endpoint: EndpointData,
    /// `whsec_` and base64.
    secret: String,
}

/// What every view of a delivery begins with.
#[derive(Debug, Serialize, ToSchema)]
struct DeliveryFields {
    id: Uuid,
    /// The `webhook-id`.
    message_id: String,
    r#type: EventType,
    session_id: Option<Uuid>,
    endpoint_id: Uuid,
    status: DeliveryState,
    /// Why it was cancelled: `endpoint_disabled` or `endpoint_deleted`.
    cause: Option<String>,
    /// Somebody had it sent again.
    is_redelivery: bool,
    next_attempt_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
}

/// One message owed to one endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
pub struct DeliveryData {
    #[serde(flatten)]
    fields: DeliveryFields,
    /// How many were made.
    attempts: u32,
}

/// A delivery with every attempt, and the body just as it is sent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeliveryStory)]
pub struct DeliveryStoryData<'a> {
    #[serde(flatten)]
    fields: DeliveryFields,
    #[schema(value_type = Option<Object>)]
    body: Option<&'a RawValue>,
    /// The first one first.
    attempts: Vec<AttemptData>,
}

/// One HTTP try of a delivery.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Attempt)]
pub(super) struct AttemptData {
    number: u32,
    started_at: DateTime<Utc>,
    duration_ms: f64,
    /// The receiver's HTTP status.
    status: Option<u16>,
    /// Why there is none, in a word or two.
    error: Option<String>,
    /// Status line and headers, cut.
    response_head: Option<String>,
    /// At most 16 KiB.
    response_body: String,
    /// Where it went. Only staff see addresses that are not public: they tell of the network behind.
    address: Option<String>,
    is_connection_reused: bool,
}

/// Many deliveries going out again, and how far that has come.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Redelivery)]
pub struct RedeliveryData {
    id: Uuid,
    endpoint_id: Uuid,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    #[schema(value_type = Vec<Undelivered>)]
    statuses: Vec<&'static str>,
    per_second: u32,
    status: RedeliveryState,
    /// How many there were when it was ordered; null: too many to count.
    matched: Option<i64>,
    /// How many are on their way, or have arrived.
    redelivered: i64,
    /// How many were not sent, because what they told is no longer so.
    skipped: i64,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
}

/// What did not arrive.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "says what `Statuses` is shown as")]
pub(super) enum Undelivered {
    /// Every attempt failed.
    Exhausted,
    /// Its endpoint was disabled or deleted.
    Cancelled,
    /// Its endpoint was not there yet, or did not hear of it.
    Missing,
}

impl EndpointData {
    /// Shows an endpoint.
    pub fn new(
        endpoint: &Endpoint,
        health: Option<&EndpointHealth>,
        keyring: Option<&Keyring>,
        now: DateTime<Utc>,
    ) -> Self {
        let (disabled_at, disabled_reason) = endpoint.disabled.clone().unzip();
        let secrets = keyring.and_then(|key| open_secrets(key, &endpoint.sealed_secret).ok());
        let sealed_headers = endpoint.sealed_headers.as_deref();
        let headers = keyring.and_then(|key| open_headers(key, sealed_headers).ok());
        let failing = health.and_then(|health| health.failing);
        let paused_until = health.and_then(|health| health.paused_until);
        Self {
            id: endpoint.endpoint_id,
            url: endpoint.url.clone(),
            owner: endpoint.owner,
            tenant_id: endpoint.tenant_id.clone(),
            character_slug: endpoint.character_slug.clone(),
            event_types: endpoint.event_types.clone(),
            payload: endpoint.payload,
            header_names: headers.map(|own| own.names().map(str::to_owned).collect()),
            timeout_seconds: endpoint.timeout_seconds,
            rate_limit_per_minute: endpoint.rate_limit_per_minute,
            disabled_at,
            disabled_reason,
            failing_since: failing.map(|failing| failing.since),
            failures: failing.map_or(0, |failing| failing.failures),
            percent_to_disabled: failing.as_ref().map_or(0, Failing::percent),
            paused_until: paused_until.filter(|until| *until > now),
            old_secrets_end_at: secrets.map(|secrets| secrets.ends(now).collect()),
            created_at: endpoint.created_at,
        }
    }

    /// Shows its secret too.
    pub fn with_secret(self, secret: &str) -> EndpointSecretData {
        EndpointSecretData { endpoint: self, secret: secret.to_owned() }
    }
}

impl From<&Delivery> for DeliveryFields {
    fn from(delivery: &Delivery) -> Self {
        Self {
            id: delivery.delivery_id,
            message_id: delivery.message_id.to_string(),
            r#type: delivery.event_type,
            session_id: delivery.session_id,
            endpoint_id: delivery.endpoint_id,
            status: delivery.state,
            cause: delivery.cause.clone(),
            is_redelivery: delivery.redelivered_after.is_some(),
            next_attempt_at: delivery.next_attempt_at,
            created_at: delivery.created_at,
            finished_at: delivery.finished_at,
        }
    }
}

impl From<&Delivery> for DeliveryData {
    fn from(delivery: &Delivery) -> Self {
        Self { fields: delivery.into(), attempts: delivery.attempts }
    }
}

impl<'a> DeliveryStoryData<'a> {
    /// Shows a delivery and its attempts.
    pub fn new(story: &'a DeliveryStory, is_staff: bool) -> Self {
        let DeliveryStory { delivery, body, attempts } = story;
        Self {
            fields: delivery.into(),
            body: serde_json::from_slice(body).ok(),
            attempts: attempts.iter().map(|attempt| AttemptData::new(attempt, is_staff)).collect(),
        }
    }
}

impl AttemptData {
    fn new(attempt: &Attempt, is_staff: bool) -> Self {
        let may_see = |address: &String| {
            let address: Option<SocketAddr> = address.parse().ok();
            is_staff || address.is_some_and(|address| is_public(address.ip()))
        };
        Self {
            number: attempt.number,
            started_at: attempt.started_at,
            duration_ms: milliseconds(attempt.duration_us),
            status: attempt.status,
            error: attempt.error.clone(),
            response_head: attempt.response_head.clone(),
            response_body: String::from_utf8_lossy(&attempt.response_body).into_owned(),
            address: attempt.address.clone().filter(may_see),
            is_connection_reused: attempt.is_connection_reused,
        }
    }
}

/// With at most three decimals.
#[expect(clippy::cast_precision_loss, reason = "exact for the days an attempt cannot take")]
fn milliseconds(microseconds: i64) -> f64 {
    microseconds as f64 / 1000.0
}

impl From<&Redelivery> for RedeliveryData {
    fn from(job: &Redelivery) -> Self {
        Self {
            id: job.redelivery_id,
            endpoint_id: job.range.endpoint_id,
            since: job.range.since,
            until: job.range.until,
            statuses: job.range.statuses.names(),
            per_second: job.per_second,
            status: job.state,
            matched: job.matched,
            redelivered: job.redelivered,
            skipped: job.skipped,
            created_at: job.created_at,
            finished_at: job.finished_at,
        }
    }
}
