//! Endpoints, deliveries and redeliveries as people see them, here and on the command line.

use std::net::SocketAddr;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::courier::{is_public, open_headers, open_secrets};
use crate::secrets::Keyring;
use crate::store::{Attempt, Delivery, DeliveryStory, Endpoint, EndpointHealth, Redelivery};
use crate::webhook::Failing;

/// An endpoint. Of its secrets only until when old ones sign along, of its headers the names; null
/// when they cannot be opened.
pub fn endpoint_data(
    endpoint: &Endpoint,
    health: Option<&EndpointHealth>,
    keyring: Option<&Keyring>,
    now: DateTime<Utc>,
) -> Value {
    let disabled = endpoint.disabled.as_ref();
    let secrets = keyring.and_then(|key| open_secrets(key, &endpoint.sealed_secret).ok());
    let old_secrets: Option<Vec<_>> = secrets.map(|secrets| secrets.ends(now).collect());
    let sealed_headers = endpoint.sealed_headers.as_deref();
    let headers = keyring.and_then(|key| open_headers(key, sealed_headers).ok());
    let names = headers.map(|own| own.names().map(str::to_owned).collect::<Vec<_>>());
    let failing = health.and_then(|health| health.failing);
    let paused_until = health.and_then(|health| health.paused_until);
    json!({
        "id": endpoint.endpoint_id,
        "url": endpoint.url,
        "owner": endpoint.owner,
        "tenant_id": endpoint.tenant_id,
        "character_slug": endpoint.character_slug,
        "event_types": endpoint.event_types,
        "payload": endpoint.payload,
        "header_names": names,
        "timeout_seconds": endpoint.timeout_seconds,
        "rate_limit_per_minute": endpoint.rate_limit_per_minute,
        "disabled_at": disabled.map(|(at, _)| at),
        "disabled_reason": disabled.map(|(_, reason)| reason),
        "failing_since": failing.map(|failing| failing.since),
        "failures": failing.map_or(0, |failing| failing.failures),
        "percent_to_disabled": failing.as_ref().map_or(0, Failing::percent),
        "paused_until": paused_until.filter(|until| *until > now),
        "old_secrets_end_at": old_secrets,
        "created_at": endpoint.created_at,
    })
}

/// A delivery, as a list shows it.
pub fn delivery_data(delivery: &Delivery) -> Value {
    json!({
        "id": delivery.delivery_id,
        "message_id": delivery.message_id.to_string(),
        "type": delivery.event_type,
        "session_id": delivery.session_id,
        "endpoint_id": delivery.endpoint_id,
        "status": delivery.state.as_str(),
        "cause": delivery.cause,
        "attempts": delivery.attempts,
        "is_redelivery": delivery.redelivered_after.is_some(),
        "next_attempt_at": delivery.next_attempt_at,
        "created_at": delivery.created_at,
        "finished_at": delivery.finished_at,
    })
}

/// A delivery with every attempt, and the bytes that are sent just as they are. Only staff see
/// addresses that are not public: they tell of the network behind.
pub fn delivery_story_data(story: &DeliveryStory, is_staff: bool) -> Box<RawValue> {
    #[derive(Serialize)]
    struct Data<'a> {
        #[serde(flatten)]
        delivery: Value,
        body: Option<&'a RawValue>,
        attempts: Vec<Value>,
    }

    let attempts = story.attempts.iter().map(|attempt| attempt_data(attempt, is_staff));
    let data = Data {
        delivery: delivery_data(&story.delivery),
        body: serde_json::from_slice(&story.body).ok(),
        attempts: attempts.collect(),
    };
    serde_json::value::to_raw_value(&data).expect("what is stored can be shown")
}

fn attempt_data(attempt: &Attempt, is_staff: bool) -> Value {
    let may_see = |address: &&str| {
        let address: Option<SocketAddr> = address.parse().ok();
        is_staff || address.is_some_and(|address| is_public(address.ip()))
    };
    json!({
        "number": attempt.number,
        "started_at": attempt.started_at,
        "duration_ms": milliseconds(attempt.duration_us),
        "status": attempt.status,
        "error": attempt.error,
        "response_head": attempt.response_head,
        "response_body": String::from_utf8_lossy(&attempt.response_body),
        "address": attempt.address.as_deref().filter(may_see),
        "is_connection_reused": attempt.is_connection_reused,
    })
}

/// With at most three decimals.
#[expect(clippy::cast_precision_loss, reason = "exact for the days an attempt cannot take")]
fn milliseconds(microseconds: i64) -> f64 {
    microseconds as f64 / 1000.0
}

/// A redelivery and how far it has come.
pub fn redelivery_data(job: &Redelivery) -> Value {
    json!({
        "id": job.redelivery_id,
        "endpoint_id": job.range.endpoint_id,
        "since": job.range.since,
        "until": job.range.until,
        "statuses": job.range.statuses.names(),
        "per_second": job.per_second,
        "status": job.state.as_str(),
        "matched": job.matched,
        "redelivered": job.redelivered,
        "skipped": job.skipped,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
    })
}
