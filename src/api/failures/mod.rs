//! `/api/failures/`: events that could not be finalized, for staff.

mod replays;
mod show;

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderValue, header};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::ApiState;
use super::auth::Staff;
use super::envelope::Reply;
use super::error::ApiError;
use super::fields::{self, Fields, QueryFields};
use super::id::Id;
use super::routes::Routes;
use crate::event::FailureCode;
use crate::intake::ReplayOrder;
use crate::store::{FailureFilter, FailurePlace, FailureState, Refusal};

pub use show::{failure_data, failure_story_data, outcome_data, replay_data, trial_data};

const PAGE_SIZE: u32 = 50;
const LARGEST_PAGE: u32 = 200;
/// An event of the greatest length, and what is said with it.
const BODY_LIMIT_BYTES: usize = super::events::BODY_LIMIT_BYTES + 64 * 1024;

const NO_FAILURE: ApiError = ApiError::NotFound("There is no such failure.");
const NO_REPLAYER: ApiError = ApiError::Unavailable("This process takes no events: ask another.");

/// All routes about failures.
pub(super) fn routes() -> Routes {
    let replay = post(replay).layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES));
    let job = get(replays::show).delete(replays::cancel);
    Routes::default()
        .both("/api/failures/", get(list))
        .both("/api/failures/replays/", get(replays::list).post(replays::create))
        .both("/api/failures/replays/{id}/", job)
        .both("/api/failures/{id}/", get(show))
        .both("/api/failures/{id}/raw/", get(raw))
        .both("/api/failures/{id}/replay/", replay)
        .both("/api/failures/{id}/discard/", post(discard))
}

/// The last seen first; `next_before` is where the page after begins, or null.
async fn list(
    _staff: Staff,
    State(state): State<ApiState>,
    QueryFields(mut query): QueryFields,
) -> Result<Reply<Value>, ApiError> {
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
    let next = last.map(|last| FailurePlace::of(last).to_text());
    let shown: Vec<Value> = failures.iter().map(failure_data).collect();
    let data = json!({ "failures": shown, "next_before": next });
    Ok(Reply { message: "The failures, the last seen first.".into(), data })
}

async fn show(
    _staff: Staff,
    Id(failure_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<Box<RawValue>>, ApiError> {
    let (failure, raw) = state.store.failure(failure_id).await?.ok_or(NO_FAILURE)?;
    let data = failure_story_data(&failure, &raw);
    Ok(Reply { message: "The failure and its event.".into(), data })
}

/// The event's bytes as they came.
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

/// Replays a failure, or says what that would come to.
async fn replay(
    Staff(viewer): Staff,
    Id(failure_id): Id,
    State(state): State<ApiState>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Reply<Value>, ApiError> {
    let (is_superseding, is_dry_run, instead) = read_order(&body?)?;
    let by = format!("user {}", viewer.user).into();
    let order = ReplayOrder { by, is_superseding, instead, is_named: true };
    let replayer = state.replayer.as_ref().ok_or(NO_REPLAYER)?;
    if is_dry_run {
        let trial = replayer.dry_run(failure_id, &order).await?.map_err(|why| refused(&why))?;
        let message = "Nothing is changed: this is what a replay would come to.".into();
        return Ok(Reply { message, data: trial_data(&trial) });
    }
    let outcome = replayer.replay(failure_id, order).await?.map_err(|why| refused(&why))?;
    let (failure, _) = state.store.failure(failure_id).await?.ok_or(NO_FAILURE)?;
    let mut data = outcome_data(&outcome);
    data["failure"] = failure_data(&failure);
    Ok(Reply { message: "The failure was replayed.".into(), data })
}

async fn discard(
    Staff(viewer): Staff,
    Id(failure_id): Id,
    State(state): State<ApiState>,
    fields: Fields,
) -> Result<Reply<Value>, ApiError> {
    fields.end()?;
    let (by, now) = (format!("user {}", viewer.user), state.clock.now());
    let discarded = state.store.discard_failure(failure_id, &by, now).await?;
    discarded.map_err(|why| refused(&why))?;
    let (failure, _) = state.store.failure(failure_id).await?.ok_or(NO_FAILURE)?;
    let message = "The failure is discarded; if its event comes again, it is open again.";
    Ok(Reply { message: message.into(), data: failure_data(&failure) })
}

fn refused(refusal: &Refusal) -> ApiError {
    match refusal {
        Refusal::Unknown => NO_FAILURE,
        other => ApiError::Conflict(other.to_string().into()),
    }
}

/// Whether to supersede, whether to try out only, and the event to take instead: its very bytes.
fn read_order(body: &Bytes) -> Result<(bool, bool, Option<Bytes>), ApiError> {
    let mut members: BTreeMap<String, &RawValue> = if body.is_empty() {
        BTreeMap::new()
    } else {
        serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid("body", format!("This is no object: {error}.")))?
    };
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
