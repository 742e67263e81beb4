//! `/api/webhooks/endpoints/`: who gets webhooks. Owners manage their own, staff all.

use std::collections::{BTreeMap, HashMap};

use axum::extract::State;
use chrono::TimeDelta;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::super::ApiState;
use super::super::auth::Viewer;
use super::super::envelope::{Created, Reply};
use super::super::error::ApiError;
use super::super::fields::{self, Fields, QueryFields, nullable};
use super::{Id, NO_ENDPOINT, endpoint_data, visible_endpoint};
use crate::courier::{
    self, Answer, PostError, RotateError, new_endpoint, new_secret, rotate, seal_headers,
};
use crate::store::{BY_HAND, Endpoint, EndpointHealth};
use crate::webhook::{
    EventType, LONGEST_OVERLAP, OVERLAP, OwnHeaders, PayloadKind, Secret, check_rate_limit,
    check_timeout,
};

/// Endpoints of one owner: each multiplies what their calls cause.
const MOST_ENDPOINTS: usize = 50;
/// How often a change is tried anew because somebody else changed the endpoint meanwhile.
const MAX_RACES: usize = 10;

pub(super) async fn list(
    viewer: Viewer,
    State(state): State<ApiState>,
    QueryFields(mut query): QueryFields,
) -> Result<Reply<Vec<Value>>, ApiError> {
    let owner = query.given("owner", fields::integer);
    if owner.is_some_and(|owner| !viewer.may_see(owner)) {
        query.wrong("owner", "Only staff see the endpoints of others.");
    }
    query.end()?;
    let owner = if viewer.is_staff { owner } else { Some(viewer.user) };
    let endpoints = state.store.endpoints(owner).await?;
    let (health, now) = (health(&state).await?, state.clock.now());
    let shown = endpoints.iter().map(|endpoint| {
        endpoint_data(endpoint, health.get(&endpoint.endpoint_id), Some(&state.keyring), now)
    });
    Ok(Reply { message: "The endpoints.".into(), data: shown.collect() })
}

pub(super) async fn show(
    viewer: Viewer,
    Id(endpoint_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<Value>, ApiError> {
    let endpoint = visible_endpoint(&state, viewer, endpoint_id).await?;
    shown(&state, &endpoint, "The endpoint.").await
}

pub(super) async fn create(
    viewer: Viewer,
    State(state): State<ApiState>,
    mut given: Fields,
) -> Result<Created<Value>, ApiError> {
    let owner = match given.given("owner", nullable(fields::integer)) {
        Some(owner) if viewer.is_staff => owner,
        Some(Some(owner)) if owner == viewer.user => Some(owner),
        Some(_) => {
            given.wrong("owner", "Only staff make endpoints for others, or (null) for all.");
            None
        }
        None => Some(viewer.user),
    };
    let url = given.required("url", |value| check_url(&state, value)).unwrap_or_default();
    let secret = given.given("secret", read_secret).unwrap_or_else(new_secret);
    let now = state.clock.now();
    let endpoint = new_endpoint(&state.keyring, (url, owner), secret.clone(), now);
    let endpoint = changed(&state, given, endpoint)?;
    if !viewer.is_staff && state.store.endpoints(owner).await?.len() >= MOST_ENDPOINTS {
        return Err(ApiError::Conflict(
            format!("There are {MOST_ENDPOINTS} endpoints already: delete one first.").into(),
        ));
    }
    state.store.add_endpoint(&endpoint).await?;
    let mut reply = shown(&state, &endpoint, "The endpoint. Its secret is shown only now.").await?;
    reply.data["secret"] = json!(secret.reveal());
    Ok(Created(reply))
}

pub(super) async fn edit(
    viewer: Viewer,
    Id(endpoint_id): Id,
    State(state): State<ApiState>,
    given: Fields,
) -> Result<Reply<Value>, ApiError> {
    let given = given.into_given();
    let endpoint = change(&state, viewer, endpoint_id, |mut endpoint| {
        let mut given = Fields::new(given.clone());
        if let Some(url) = given.given("url", |value| check_url(&state, value)) {
            endpoint.url = url;
        }
        changed(&state, given, endpoint)
    });
    shown(&state, &endpoint.await?, "The endpoint as it is now.").await
}

pub(super) async fn delete(
    viewer: Viewer,
    Id(endpoint_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<Value>, ApiError> {
    visible_endpoint(&state, viewer, endpoint_id).await?;
    if !state.store.delete_endpoint(endpoint_id, state.clock.now()).await? {
        return Err(NO_ENDPOINT);
    }
    let message = "The endpoint is deleted; what was still to be sent to it is cancelled.";
    Ok(Reply { message: message.into(), data: json!({ "id": endpoint_id }) })
}

pub(super) async fn enable(
    viewer: Viewer,
    Id(endpoint_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<Value>, ApiError> {
    visible_endpoint(&state, viewer, endpoint_id).await?;
    state.store.enable_endpoint(endpoint_id).await?;
    let endpoint = visible_endpoint(&state, viewer, endpoint_id).await?;
    let message = "The endpoint is enabled. What was cancelled can be redelivered.";
    shown(&state, &endpoint, message).await
}

pub(super) async fn disable(
    viewer: Viewer,
    Id(endpoint_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<Value>, ApiError> {
    visible_endpoint(&state, viewer, endpoint_id).await?;
    state.store.disable_endpoint(endpoint_id, BY_HAND, state.clock.now()).await?;
    let endpoint = visible_endpoint(&state, viewer, endpoint_id).await?;
    shown(&state, &endpoint, "The endpoint is disabled; what it is owed is cancelled.").await
}

pub(super) async fn rotate_secret(
    viewer: Viewer,
    Id(endpoint_id): Id,
    State(state): State<ApiState>,
    mut given: Fields,
) -> Result<Reply<Value>, ApiError> {
    let secret = given.given("secret", read_secret).unwrap_or_else(new_secret);
    let overlap = given.given("overlap_seconds", read_overlap).unwrap_or(OVERLAP);
    given.end()?;
    let now = state.clock.now();
    let endpoint = change(&state, viewer, endpoint_id, |endpoint| {
        rotate(&state.keyring, &endpoint, secret.clone(), now, overlap).map_err(|error| match error
        {
            RotateError::Rotation(error) => ApiError::Conflict(error.to_string().into()),
            RotateError::Secrets(error) => {
                tracing::error!(endpoint.id = %endpoint_id, "a secret cannot be opened: {error}");
                ApiError::Conflict(UNREADABLE.into())
            }
        })
    });
    let message = "The endpoint. Its new secret is shown only now.";
    let mut reply = shown(&state, &endpoint.await?, message).await?;
    reply.data["secret"] = json!(secret.reveal());
    Ok(reply)
}

const UNREADABLE: &str = "The present secret cannot be read: rotate with an overlap of 0.";

/// One `endpoint.ping`, from here, whether the endpoint is disabled or not.
pub(super) async fn ping(
    viewer: Viewer,
    Id(endpoint_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<Value>, ApiError> {
    let endpoint = visible_endpoint(&state, viewer, endpoint_id).await?;
    let _place = state
        .webhooks
        .pings
        .begin(viewer.user)
        .ok_or(ApiError::Unavailable("Too many pings are on their way; try again."))?;
    let (installation, now) = (state.store.installation().await?, state.clock.now());
    let pinged =
        courier::ping(&state.webhooks.client, &state.keyring, &endpoint, installation, now).await;
    let (message_id, posted) = pinged.map_err(|error| {
        tracing::error!(endpoint.id = %endpoint_id, "a secret cannot be opened: {error}");
        ApiError::Conflict(UNREADABLE.into())
    })?;
    let is_delivered = Answer::of(&posted, now) == Answer::Delivered;
    let address = posted.address.filter(|at| viewer.is_staff || courier::is_public(at.ip()));
    let data = json!({
        "is_delivered": is_delivered,
        "message_id": message_id.to_string(),
        "status": posted.status,
        "error": posted.error.map(PostError::as_str),
        "address": address,
        "duration_ms": posted.duration.as_millis(),
        "response_body": String::from_utf8_lossy(&posted.body),
    });
    let message = if is_delivered { "The ping arrived." } else { "The ping did not arrive." };
    Ok(Reply { message: message.into(), data })
}

/// Changes an endpoint, as often as somebody else changes it at the same moment.
async fn change(
    state: &ApiState,
    viewer: Viewer,
    endpoint_id: Uuid,
    make: impl Fn(Endpoint) -> Result<Endpoint, ApiError>,
) -> Result<Endpoint, ApiError> {
    for _ in 0..MAX_RACES {
        let changed = make(visible_endpoint(state, viewer, endpoint_id).await?)?;
        if state.store.change_endpoint(&changed).await? {
            return Ok(changed);
        }
    }
    Err(ApiError::Conflict("Others are changing this endpoint; try again.".into()))
}

/// The endpoint with what is given; everything else stays.
fn changed(
    state: &ApiState,
    mut given: Fields,
    mut endpoint: Endpoint,
) -> Result<Endpoint, ApiError> {
    if let Some(tenant) = given.given("tenant_id", nullable(fields::name)) {
        endpoint.tenant_id = tenant;
    }
    if let Some(character) = given.given("character_slug", nullable(fields::name)) {
        endpoint.character_slug = character;
    }
    if let Some(types) = given.given("event_types", nullable(fields::list(16, event_type))) {
        endpoint.event_types = types.unwrap_or_default();
    }
    if let Some(payload) = given.given("payload", read_payload) {
        endpoint.payload = payload;
    }
    if let Some(headers) = given.given("headers", nullable(read_headers)) {
        endpoint.sealed_headers = seal_headers(&state.keyring, &headers.unwrap_or_default());
    }
    if let Some(seconds) = given.given("timeout_seconds", |v| check_timeout(fields::integer(v)?)) {
        endpoint.timeout_seconds = seconds;
    }
    let read_limit = nullable(|value: &Value| check_rate_limit(fields::integer(value)?));
    if let Some(limit) = given.given("rate_limit_per_minute", read_limit) {
        endpoint.rate_limit_per_minute = limit;
    }
    given.end()?;
    Ok(endpoint)
}

fn check_url(state: &ApiState, value: &Value) -> Result<String, String> {
    let url = state.webhooks.guard.check_url(fields::text(value)?);
    url.map(String::from).map_err(|error| error.to_string())
}

fn event_type(value: &Value) -> Result<EventType, String> {
    EventType::parse(fields::text(value)?).ok_or_else(|| {
        let types = EventType::ALL.map(EventType::as_str).join(", ");
        format!("Expected one of {types}.")
    })
}

fn read_payload(value: &Value) -> Result<PayloadKind, String> {
    let kind = PayloadKind::parse(fields::text(value)?);
    kind.ok_or_else(|| "Expected `thin` or `full`.".to_owned())
}

fn read_headers(value: &Value) -> Result<OwnHeaders, String> {
    let wrong = || "Expected an object of texts.".to_owned();
    let given: &Map<String, Value> = value.as_object().ok_or_else(wrong)?;
    let texts = given.iter().map(|(name, value)| {
        value.as_str().map(|text| (name.clone(), text.to_owned())).ok_or_else(wrong)
    });
    OwnHeaders::new(texts.collect::<Result<BTreeMap<_, _>, _>>()?)
}

fn read_secret(value: &Value) -> Result<Secret, String> {
    Secret::parse(fields::text(value)?).map_err(|error| format!("Expected that {error}."))
}

fn read_overlap(value: &Value) -> Result<TimeDelta, String> {
    let longest = u32::try_from(LONGEST_OVERLAP.num_seconds()).unwrap_or(u32::MAX);
    fields::within(0..=longest)(value).map(|seconds| TimeDelta::seconds(seconds.into()))
}

async fn health(state: &ApiState) -> Result<HashMap<Uuid, EndpointHealth>, ApiError> {
    let all = state.store.endpoint_health(state.clock.now()).await?;
    Ok(all.into_iter().map(|health| (health.endpoint_id, health)).collect())
}

async fn shown(
    state: &ApiState,
    endpoint: &Endpoint,
    message: &'static str,
) -> Result<Reply<Value>, ApiError> {
    let (health, now) = (health(state).await?, state.clock.now());
    let health = health.get(&endpoint.endpoint_id);
    let data = endpoint_data(endpoint, health, Some(&state.keyring), now);
    Ok(Reply { message: message.into(), data })
}
