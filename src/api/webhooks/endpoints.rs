//! `/api/webhooks/endpoints/`: who gets webhooks. Owners manage their own, staff all.

use std::collections::{BTreeMap, HashMap};

use axum::extract::State;
use chrono::TimeDelta;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::ApiState;
use super::super::auth::Viewer;
use super::super::envelope::{Created, Envelope, Refusal, Reply};
use super::super::error::ApiError;
use super::super::fields::{self, Fields, QueryFields, nullable};
use super::super::keys::Deleted;
use super::{EndpointData, EndpointSecretData, Id, NO_ENDPOINT, visible_endpoint};
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

/// What a new endpoint is to be.
#[derive(ToSchema)]
#[expect(dead_code, reason = "says what `create` reads")]
struct NewEndpoint {
    /// https, unless the server allows others.
    #[schema(format = "uri", example = "https://example.com/webhooks")]
    url: String,
    /// `whsec_` and base64 of 24 to 64 bytes; left out, one is made.
    #[schema(nullable = false, pattern = "^whsec_[A-Za-z0-9+/]{32,86}={0,2}$")]
    secret: Option<String>,
    /// Your own number, if you are not staff; null: it hears of everyone's sessions.
    owner: Option<i64>,
    #[serde(flatten)]
    manner: EndpointManner,
}

/// What is to be different about an endpoint.
#[derive(ToSchema)]
#[expect(dead_code, reason = "says what `edit` reads")]
struct EndpointChange {
    #[schema(nullable = false, format = "uri")]
    url: Option<String>,
    #[serde(flatten)]
    manner: EndpointManner,
}

/// What an endpoint hears of, and how it wants to be called.
#[derive(ToSchema)]
#[expect(dead_code, reason = "says what `changed` reads")]
struct EndpointManner {
    #[schema(min_length = 1, max_length = 512)]
    tenant_id: Option<String>,
    #[schema(min_length = 1, max_length = 512)]
    character_slug: Option<String>,
    /// Null or empty: of every type.
    #[schema(max_items = 16)]
    event_types: Option<Vec<EventType>>,
    #[schema(nullable = false)]
    payload: Option<PayloadKind>,
    /// Headers of your own to be sent along.
    headers: Option<BTreeMap<String, String>>,
    #[schema(nullable = false, minimum = 1, maximum = 30)]
    timeout_seconds: Option<u32>,
    /// Null: as fast as it answers.
    #[schema(minimum = 1, maximum = 600_000)]
    rate_limit_per_minute: Option<u32>,
}

/// How a secret is rotated.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "says what `rotate_secret` reads")]
struct Rotation {
    /// `whsec_` and base64 of 24 to 64 bytes; left out, one is made.
    #[schema(nullable = false, pattern = "^whsec_[A-Za-z0-9+/]{32,86}={0,2}$")]
    secret: Option<String>,
    /// How long the present one signs along.
    #[schema(nullable = false, minimum = 0, maximum = 604_800)]
    overlap_seconds: Option<u32>,
}

/// What came of a ping.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Ping)]
pub(super) struct PingData {
    is_delivered: bool,
    /// The `webhook-id`.
    message_id: String,
    /// The receiver's HTTP status.
    status: Option<u16>,
    /// Why there is none, in a word or two.
    error: Option<&'static str>,
    address: Option<String>,
    duration_ms: u64,
    response_body: String,
}

/// Endpoints
#[utoipa::path(
    get, path = "/api/webhooks/endpoints/", tag = "Webhooks", operation_id = "list_endpoints",
    params(("owner" = Option<i64>, Query, description = "Only this user's")),
    responses((status = 200, description = "The endpoints", body = Envelope<Vec<EndpointData>>)),
)]
pub(super) async fn list(
    viewer: Viewer,
    State(state): State<ApiState>,
    QueryFields(mut query): QueryFields,
) -> Result<Reply<Vec<EndpointData>>, ApiError> {
    let owner = query.given("owner", fields::integer);
    if owner.is_some_and(|owner| !viewer.may_see(owner)) {
        query.wrong("owner", "Only staff see the endpoints of others.");
    }
    query.end()?;
    let owner = if viewer.is_staff { owner } else { Some(viewer.user) };
    let endpoints = state.store.endpoints(owner).await?;
    let (health, now) = (health(&state).await?, state.clock.now());
    let shown = endpoints.iter().map(|endpoint| {
        EndpointData::new(endpoint, health.get(&endpoint.endpoint_id), Some(&state.keyring), now)
    });
    Ok(Reply { message: "The endpoints.".into(), data: shown.collect() })
}

/// One endpoint
#[utoipa::path(
    get, path = "/api/webhooks/endpoints/{id}/", tag = "Webhooks", operation_id = "get_endpoint",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The endpoint", body = Envelope<EndpointData>),
        (status = 404, description = "You have no such endpoint", body = Refusal),
    ),
)]
pub(super) async fn show(
    viewer: Viewer,
    Id(endpoint_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<EndpointData>, ApiError> {
    let endpoint = visible_endpoint(&state, viewer, endpoint_id).await?;
    shown(&state, &endpoint, "The endpoint.").await
}

/// Make an endpoint
///
/// Its secret is in the answer, and never shown again.
#[utoipa::path(
    post, path = "/api/webhooks/endpoints/", tag = "Webhooks", operation_id = "create_endpoint",
    request_body = NewEndpoint,
    responses(
        (status = 201, description = "The endpoint", body = Envelope<EndpointSecretData>),
        (status = 409, description = "You have too many already", body = Refusal),
    ),
)]
pub(super) async fn create(
    viewer: Viewer,
    State(state): State<ApiState>,
    mut given: Fields,
) -> Result<Created<EndpointSecretData>, ApiError> {
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
    let shown = shown(&state, &endpoint, "The endpoint. Its secret is shown only now.").await?;
    Ok(Created(shown.with_secret(&secret)))
}

/// Change an endpoint
#[utoipa::path(
    patch, path = "/api/webhooks/endpoints/{id}/", tag = "Webhooks", operation_id = "change_endpoint",
    params(("id" = Uuid, Path)), request_body = Option<EndpointChange>,
    responses(
        (status = 200, description = "The endpoint", body = Envelope<EndpointData>),
        (status = 404, description = "You have no such endpoint", body = Refusal),
        (status = 409, description = "Others are changing it", body = Refusal),
    ),
)]
pub(super) async fn edit(
    viewer: Viewer,
    Id(endpoint_id): Id,
    State(state): State<ApiState>,
    given: Fields,
) -> Result<Reply<EndpointData>, ApiError> {
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

/// Delete an endpoint
///
/// What was still to be sent to it is cancelled.
#[utoipa::path(
    delete, path = "/api/webhooks/endpoints/{id}/", tag = "Webhooks", operation_id = "delete_endpoint",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "It is gone", body = Envelope<Deleted>),
        (status = 404, description = "You have no such endpoint", body = Refusal),
    ),
)]
pub(super) async fn delete(
    viewer: Viewer,
    Id(endpoint_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<Deleted>, ApiError> {
    visible_endpoint(&state, viewer, endpoint_id).await?;
    if !state.store.delete_endpoint(endpoint_id, state.clock.now()).await? {
        return Err(NO_ENDPOINT);
    }
    let message = "The endpoint is deleted; what was still to be sent to it is cancelled.";
    Ok(Reply { message: message.into(), data: Deleted { id: endpoint_id } })
}

/// Enable an endpoint
///
/// Nothing is held against it any more. What was cancelled can be redelivered.
#[utoipa::path(
    post, path = "/api/webhooks/endpoints/{id}/enable/", tag = "Webhooks", operation_id = "enable_endpoint",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The endpoint", body = Envelope<EndpointData>),
        (status = 404, description = "You have no such endpoint", body = Refusal),
    ),
)]
pub(super) async fn enable(
    viewer: Viewer,
    Id(endpoint_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<EndpointData>, ApiError> {
    visible_endpoint(&state, viewer, endpoint_id).await?;
    state.store.enable_endpoint(endpoint_id).await?;
    let endpoint = visible_endpoint(&state, viewer, endpoint_id).await?;
    let message = "The endpoint is enabled. What was cancelled can be redelivered.";
    shown(&state, &endpoint, message).await
}

/// Disable an endpoint
///
/// What it is owed is cancelled.
#[utoipa::path(
    post, path = "/api/webhooks/endpoints/{id}/disable/", tag = "Webhooks", operation_id = "disable_endpoint",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The endpoint", body = Envelope<EndpointData>),
        (status = 404, description = "You have no such endpoint", body = Refusal),
    ),
)]
pub(super) async fn disable(
    viewer: Viewer,
    Id(endpoint_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<EndpointData>, ApiError> {
    visible_endpoint(&state, viewer, endpoint_id).await?;
    state.store.disable_endpoint(endpoint_id, BY_HAND, state.clock.now()).await?;
    let endpoint = visible_endpoint(&state, viewer, endpoint_id).await?;
    shown(&state, &endpoint, "The endpoint is disabled; what it is owed is cancelled.").await
}

/// Rotate an endpoint's secret
///
/// The new one is in the answer, and never shown again; old ones sign along for a while.
#[utoipa::path(
    post, path = "/api/webhooks/endpoints/{id}/rotate-secret/", tag = "Webhooks", operation_id = "rotate_endpoint_secret",
    params(("id" = Uuid, Path)), request_body = Option<Rotation>,
    responses(
        (status = 200, description = "The endpoint", body = Envelope<EndpointSecretData>),
        (status = 404, description = "You have no such endpoint", body = Refusal),
        (status = 409, description = "Too many secrets sign already", body = Refusal),
    ),
)]
pub(super) async fn rotate_secret(
    viewer: Viewer,
    Id(endpoint_id): Id,
    State(state): State<ApiState>,
    mut given: Fields,
) -> Result<Reply<EndpointSecretData>, ApiError> {
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
    Ok(shown(&state, &endpoint.await?, message).await?.with_secret(&secret))
}

const UNREADABLE: &str = "The present secret cannot be read: rotate with an overlap of 0.";

/// Try an endpoint out
///
/// One `endpoint.ping`, from here, whether the endpoint is disabled or not.
#[utoipa::path(
    post, path = "/api/webhooks/endpoints/{id}/ping/", tag = "Webhooks", operation_id = "ping_endpoint",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "What came of it", body = Envelope<PingData>),
        (status = 404, description = "You have no such endpoint", body = Refusal),
        (status = 409, description = "Its secret cannot be read", body = Refusal),
    ),
)]
pub(super) async fn ping(
    viewer: Viewer,
    Id(endpoint_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<PingData>, ApiError> {
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
    let data = PingData {
        is_delivered,
        message_id: message_id.to_string(),
        status: posted.status,
        error: posted.error.map(PostError::as_str),
        address: address.map(|address| address.to_string()),
        duration_ms: u64::try_from(posted.duration.as_millis()).unwrap_or(u64::MAX),
        response_body: String::from_utf8_lossy(&posted.body).into_owned(),
    };
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
) -> Result<Reply<EndpointData>, ApiError> {
    let (health, now) = (health(state).await?, state.clock.now());
    let health = health.get(&endpoint.endpoint_id);
    let data = EndpointData::new(endpoint, health, Some(&state.keyring), now);
    Ok(Reply { message: message.into(), data })
}

impl Reply<EndpointData> {
    /// Shows the endpoint's secret too.
    fn with_secret(self, secret: &Secret) -> Reply<EndpointSecretData> {
        Reply { message: self.message, data: self.data.with_secret(&secret.reveal()) }
    }
}
