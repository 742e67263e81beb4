//! `/api/failures/`: events that could not be finalized, for staff.

mod replays;
mod show;

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderValue, header};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::ApiState;
use super::auth::Staff;
use super::envelope::{Envelope, Refusal as RefusalBody, Reply};
use super::error::ApiError;
use super::fields::{self, Fields, QueryFields};
use super::id::Id;
use super::routes::Routes;
use crate::event::FailureCode;
use crate::intake::ReplayOrder;
use crate::store::{FailureFilter, FailurePlace, FailureState, Refusal};

use show::ReplayedData;
pub use show::{FailureData, FailureStoryData, OutcomeData, ReplayData, TrialData};

const PAGE_SIZE: u32 = 50;
const LARGEST_PAGE: u32 = 200;
/// An event of the greatest length, and what is said with it.
const BODY_LIMIT_BYTES: usize = super::events::BODY_LIMIT_BYTES + 64 * 1024;

const NO_FAILURE: ApiError = ApiError::NotFound("There is no such failure.");
const NO_REPLAYER: ApiError = ApiError::Unavailable("This process takes no events: ask another.");

/// All routes about failures.
pub(super) fn routes() -> Routes {
    let (schemas, described, replay) = routes!(replay);
    let replay = (schemas, described, replay.layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES)));
    Routes::default()
        .both(routes!(list))
        .both(routes!(replays::list, replays::create))
        .both(routes!(replays::show, replays::cancel))
        .both(routes!(show))
        .both(routes!(raw))
        .both(replay)
        .both(routes!(discard))
}

/// A part of the failures.
#[derive(Serialize, ToSchema)]
#[schema(as = Failures)]
struct FailuresData {
    failures: Vec<FailureData>,
    /// The `before` of the next page; null: this is the last one.
    next_before: Option<String>,
}

/// How a failure is replayed.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "says what `replay` reads")]
struct ReplayRequest {
    /// Only say what it would come to.
    #[schema(nullable = false)]
    dry_run: Option<bool>,
    /// Let an event that conflicts with what is known take its place.
    #[schema(nullable = false)]
    supersede: Option<bool>,
    /// Another event to take in its place; the original is kept.
    #[schema(value_type = Option<Object>)]
    with: Option<Value>,
}

/// A replay, or what it would come to.
#[derive(ToSchema)]
#[schema(as = ReplayAnswer)]
#[serde(untagged)]
#[expect(dead_code, reason = "says what `replay` answers")]
enum ReplayAnswer {
    Replayed(Box<Envelope<ReplayedData>>),
    Tried(Envelope<TrialData>),
}

/// Failures
///
/// The last seen first. Staff only.
#[utoipa::path(
    get, path = "/api/failures/", tag = "Failures", operation_id = "list_failures",
    params(
        ("code" = Option<FailureCode>, Query), ("state" = Option<FailureState>, Query),
        ("session_id" = Option<Uuid>, Query),
        ("character_slug" = Option<String>, Query, min_length = 1, max_length = 512),
        ("tenant_id" = Option<String>, Query, min_length = 1, max_length = 512),
        ("since" = Option<DateTime<Utc>>, Query, description = "Last seen then or later"),
        ("until" = Option<DateTime<Utc>>, Query, description = "Last seen before then"),
        ("before" = Option<String>, Query, description = "The `next_before` of another page"),
        ("page_size" = Option<u32>, Query, minimum = 1, maximum = 200),
    ),
    responses((status = 200, description = "The failures", body = Envelope<FailuresData>), (status = 403, description = "You are not staff", body = RefusalBody)),
)]
async fn list(
    _staff: Staff,
    State(state): State<ApiState>,
    QueryFields(mut query): QueryFields,
) -> Result<Reply<FailuresData>, ApiError> {
    let filter = FailureFilter {
        code: query.given("code", read_code),
        state: query.given("state", read_state),
        session_id: query.given("session_id", fields::id),
        character_slug: query.given("character_slug", fields::name),
        tenant_id: query.given("tenant_id", fields::name),
        since: query.given("since", fields::time),
        until: query.given("until", fields::time),
        before: query.given("before", read_place),
        limit: query.given("page_size", fields::within(1..=LARGEST_PAGE)).unwrap_or(PAGE_SIZE),
    };
    query.end()?;
    let failures = state.store.failures(&filter).await?;
    let is_full = failures.len() == filter.limit as usize;
    let last = failures.last().filter(|_| is_full);
    let next_before = last.map(|last| FailurePlace::of(last).to_text());
    let failures = failures.iter().map(FailureData::from).collect();
    let data = FailuresData { failures, next_before };
    Ok(Reply { message: "The failures, the last seen first.".into(), data })
}

/// One failure, with its event
///
/// Staff only.
#[utoipa::path(
    get, path = "/api/failures/{id}/", tag = "Failures", operation_id = "get_failure",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The failure", body = Envelope<FailureStoryData>),
        (status = 403, description = "You are not staff", body = RefusalBody),
        (status = 404, description = "There is no such failure", body = RefusalBody),
    ),
)]
async fn show(
    _staff: Staff,
    Id(failure_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<Box<RawValue>>, ApiError> {
    let (failure, raw) = state.store.failure(failure_id).await?.ok_or(NO_FAILURE)?;
    let data = to_raw_value(&FailureStoryData::new(&failure, &raw));
    let data = data.expect("what is stored can be shown");
    Ok(Reply { message: "The failure and its event.".into(), data })
}

/// A failure's bytes, as they came
///
/// Staff only.
#[utoipa::path(
    get, path = "/api/failures/{id}/raw/", tag = "Failures", operation_id = "get_failure_bytes",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The bytes", content_type = "application/octet-stream",
            body = [u8]),
        (status = 403, description = "You are not staff", body = RefusalBody),
        (status = 404, description = "There is no such failure", body = RefusalBody),
        (status = 409, description = "They have expired", body = RefusalBody),
    ),
)]
async fn raw(
    _staff: Staff,
    Id(failure_id): Id,
    State(state): State<ApiState>,
) -> Result<Response, ApiError> {
    let (failure, raw) = state.store.failure(failure_id).await?.ok_or(NO_FAILURE)?;
    if let Some(at) = failure.raw_expired_at {
        return Err(refused(&Refusal::Expired { at }));
    }
    let mut response = Body::from(raw).into_response();
    let headers = response.headers_mut();
    // Whatever it is, a browser is not to show it as a page.
    for (name, value) in [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Replay a failure, or say what that would come to
///
/// Staff only.
#[utoipa::path(
    post, path = "/api/failures/{id}/replay/", tag = "Failures", operation_id = "replay_failure",
    params(("id" = Uuid, Path)), request_body = Option<ReplayRequest>,
    responses(
        (status = 200, description = "What it came to, or (`dry_run`) would",
            body = ReplayAnswer),
        (status = 403, description = "You are not staff", body = RefusalBody),
        (status = 404, description = "There is no such failure", body = RefusalBody),
        (status = 409, description = "It is closed, expired, or being replayed", body = RefusalBody),
        (status = 413, description = "The body is above 32 MiB", body = RefusalBody),
    ),
)]
async fn replay(
    Staff(viewer): Staff,
    Id(failure_id): Id,
    State(state): State<ApiState>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let (is_superseding, is_dry_run, instead) = read_order(&body?)?;
    let by = format!("user {}", viewer.user).into();
    let order = ReplayOrder { by, is_superseding, instead, is_named: true };
    let replayer = state.replayer.as_ref().ok_or(NO_REPLAYER)?;
    if is_dry_run {
        let trial = replayer.dry_run(failure_id, &order).await?.map_err(|why| refused(&why))?;
        let message = "Nothing is changed: this is what a replay would come to.".into();
        return Ok(Reply { message, data: TrialData::from(&trial) }.into_response());
    }
    let outcome = replayer.replay(failure_id, order).await?.map_err(|why| refused(&why))?;
    let (failure, _) = state.store.failure(failure_id).await?.ok_or(NO_FAILURE)?;
    let data = ReplayedData::new(&outcome, &failure);
    Ok(Reply { message: "The failure was replayed.".into(), data }.into_response())
}

/// Discard a failure
///
/// If its event comes again, it is open again. Staff only.
#[utoipa::path(
    post, path = "/api/failures/{id}/discard/", tag = "Failures", operation_id = "discard_failure",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The failure", body = Envelope<FailureData>),
        (status = 403, description = "You are not staff", body = RefusalBody),
        (status = 404, description = "There is no such failure", body = RefusalBody),
        (status = 409, description = "It is closed, or being replayed", body = RefusalBody),
    ),
)]
async fn discard(
    Staff(viewer): Staff,
    Id(failure_id): Id,
    State(state): State<ApiState>,
    fields: Fields,
) -> Result<Reply<FailureData>, ApiError> {
    fields.end()?;
    let (by, now) = (format!("user {}", viewer.user), state.clock.now());
    let discarded = state.store.discard_failure(failure_id, &by, now).await?;
    discarded.map_err(|why| refused(&why))?;
    let (failure, _) = state.store.failure(failure_id).await?.ok_or(NO_FAILURE)?;
    let message = "The failure is discarded; if its event comes again, it is open again.";
    Ok(Reply { message: message.into(), data: (&failure).into() })
}

fn refused(refusal: &Refusal) -> ApiError {
    match refusal {
        Refusal::Unknown => NO_FAILURE,
        other => ApiError::Conflict(other.to_string().into()),
    }
}

/// Whether to supersede, whether to try out only, and the event to take instead: its very bytes.
fn read_order(body: &Bytes) -> Result<(bool, bool, Option<Bytes>), ApiError> {
    let members: Option<BTreeMap<String, &RawValue>> = if body.is_empty() {
        None
    } else {
        serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid("body", format!("This is no object: {error}.")))?
    };
    let mut members = members.unwrap_or_default();
    let with = members.remove("with").map(RawValue::get).filter(|text| *text != "null");
    let value = |text: &str| serde_json::from_str(text).unwrap_or_default();
    let given: Map<String, Value> =
        members.into_iter().map(|(name, text)| (name, value(text.get()))).collect();
    let mut fields = Fields::new(given);
    let is_superseding = fields.given("supersede", fields::boolean).unwrap_or(false);
    let is_dry_run = fields.given("dry_run", fields::boolean).unwrap_or(false);
    if with.is_some_and(|text| !text.starts_with('{')) {
        fields.wrong("with", "Expected an event, a JSON object.");
    }
    fields.end()?;
    Ok((is_superseding, is_dry_run, with.map(|text| body.slice_ref(text.as_bytes()))))
}

fn read_code(value: &Value) -> Result<FailureCode, String> {
    FailureCode::parse(fields::text(value)?).ok_or_else(|| {
        let codes = FailureCode::ALL.map(FailureCode::as_str).join(", ");
        format!("Expected one of {codes}.")
    })
}

fn read_state(value: &Value) -> Result<FailureState, String> {
    FailureState::parse(fields::text(value)?).ok_or_else(|| {
        let states = FailureState::ALL.map(FailureState::as_str).join(", ");
        format!("Expected one of {states}.")
    })
}

fn read_place(value: &Value) -> Result<FailurePlace, String> {
    FailurePlace::parse(fields::text(value)?)
        .ok_or_else(|| "Expected the `next_before` of another page.".to_owned())
}
