//! `/api/webhooks/redeliveries/`: sending many deliveries again, as a job that outlives its process.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::ApiState;
use super::super::auth::Viewer;
use super::super::envelope::{Created, Envelope, Refusal, Reply};
use super::super::error::ApiError;
use super::super::fields::{self, Fields, QueryFields};
use super::show::Undelivered;
use super::{Id, RedeliveryData, visible_endpoint};
use crate::clock::new_id;
use crate::store::{MOST_PER_SECOND, Redelivery, RedeliveryRange, Statuses};

const NO_JOB: ApiError = ApiError::NotFound("There is no such redelivery.");

/// Which deliveries are to go out again.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "says what `create` reads")]
struct NewRedelivery {
    endpoint_id: Uuid,
    /// Left out: from the beginning.
    #[schema(nullable = false)]
    since: Option<DateTime<Utc>>,
    /// Left out: until now.
    #[schema(nullable = false)]
    until: Option<DateTime<Utc>>,
    /// Left out: all.
    #[schema(nullable = false, min_items = 1, max_items = 3)]
    statuses: Option<Vec<Undelivered>>,
    #[schema(nullable = false, minimum = 1, maximum = 5000)]
    per_second: Option<u32>,
    /// Only say how many it would be.
    #[schema(nullable = false)]
    dry_run: Option<bool>,
}

/// What a redelivery would send.
#[derive(Serialize, ToSchema)]
struct DryRun {
    /// Always true.
    dry_run: bool,
    /// Null: too many to count.
    matched: Option<i64>,
}

/// Redeliveries
#[utoipa::path(
    get, path = "/api/webhooks/redeliveries/", tag = "Webhooks", operation_id = "list_redeliveries",
    params(("endpoint_id" = Option<Uuid>, Query, description = "Only to this endpoint")),
    responses(
        (status = 200, description = "The newest 100 of each endpoint, the newest first",
            body = Envelope<Vec<RedeliveryData>>),
        (status = 404, description = "You have no such endpoint", body = Refusal),
    ),
)]
pub(super) async fn list(
    viewer: Viewer,
    State(state): State<ApiState>,
    QueryFields(mut query): QueryFields,
) -> Result<Reply<Vec<RedeliveryData>>, ApiError> {
    let endpoint_id = query.given("endpoint_id", fields::id);
    query.end()?;
    let jobs = match (endpoint_id, viewer.is_staff) {
        (Some(endpoint_id), _) => {
            visible_endpoint(&state, viewer, endpoint_id).await?;
            state.store.redeliveries(Some(endpoint_id)).await?
        }
        (None, true) => state.store.redeliveries(None).await?,
        (None, false) => {
            let mut jobs = Vec::new();
            for endpoint in state.store.endpoints(Some(viewer.user)).await? {
                jobs.extend(state.store.redeliveries(Some(endpoint.endpoint_id)).await?);
            }
            jobs.sort_by_key(|job| std::cmp::Reverse(job.redelivery_id));
            jobs
        }
    };
    let data = jobs.iter().map(RedeliveryData::from).collect();
    Ok(Reply { message: "The redeliveries, the newest first.".into(), data })
}

/// One redelivery
#[utoipa::path(
    get, path = "/api/webhooks/redeliveries/{id}/", tag = "Webhooks", operation_id = "get_redelivery",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The redelivery", body = Envelope<RedeliveryData>),
        (status = 404, description = "You have no such redelivery", body = Refusal),
    ),
)]
pub(super) async fn show(
    viewer: Viewer,
    Id(redelivery_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<RedeliveryData>, ApiError> {
    let job = visible_job(&state, viewer, redelivery_id).await?;
    Ok(Reply { message: "The redelivery.".into(), data: RedeliveryData::from(&job) })
}

/// Send many deliveries again
///
/// Orders a redelivery; with `dry_run` only says how many deliveries it would be.
#[utoipa::path(
    post, path = "/api/webhooks/redeliveries/", tag = "Webhooks", operation_id = "create_redelivery",
    request_body = NewRedelivery,
    responses(
        (status = 200, description = "What it would send (`dry_run`)", body = Envelope<DryRun>),
        (status = 201, description = "The redelivery", body = Envelope<RedeliveryData>),
        (status = 404, description = "You have no such endpoint", body = Refusal),
        (status = 409, description = "One runs, or the endpoint is disabled", body = Refusal),
    ),
)]
pub(super) async fn create(
    viewer: Viewer,
    State(state): State<ApiState>,
    mut given: Fields,
) -> Result<Response, ApiError> {
    let now = state.clock.now();
    let endpoint_id = given.required("endpoint_id", fields::id).unwrap_or_default();
    let range = RedeliveryRange {
        endpoint_id,
        since: given.given("since", fields::time).unwrap_or(DateTime::UNIX_EPOCH),
        until: given.given("until", fields::time).unwrap_or(now),
        statuses: given.given("statuses", read_statuses).unwrap_or(Statuses::ALL),
    };
    let per_second = given.given("per_second", fields::within(1..=MOST_PER_SECOND));
    let is_dry_run = given.given("dry_run", fields::boolean).unwrap_or(false);
    if range.since >= range.until {
        given.wrong("until", "Expected a time after `since`.");
    }
    given.end()?;
    let endpoint = visible_endpoint(&state, viewer, endpoint_id).await?;
    let matched = {
        let turn = state.webhooks.counts.begin(viewer.user);
        let busy = ApiError::Unavailable("Deliveries are being counted already; try again.");
        let _turn = turn.ok_or(busy)?;
        state.store.count_range(&range).await?
    };
    if is_dry_run {
        let message = "Nothing is sent: this is what a redelivery would send.".into();
        let data = DryRun { dry_run: true, matched };
        return Ok(Reply { message, data }.into_response());
    }
    if endpoint.disabled.is_some() {
        return Err(ApiError::Conflict("The endpoint is disabled: enable it first.".into()));
    }
    let job = Redelivery::new(new_id(now), range, per_second, matched, now);
    if !state.store.add_redelivery(&job).await? {
        let sentence = "A redelivery to this endpoint runs: wait for it, or stop it.";
        return Err(ApiError::Conflict(sentence.into()));
    }
    let reply = Reply { message: "The redelivery runs.".into(), data: RedeliveryData::from(&job) };
    Ok(Created(reply).into_response())
}

/// Stop a redelivery
///
/// What is on its way stays so.
#[utoipa::path(
    delete, path = "/api/webhooks/redeliveries/{id}/", tag = "Webhooks", operation_id = "cancel_redelivery",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The redelivery", body = Envelope<RedeliveryData>),
        (status = 404, description = "You have no such redelivery", body = Refusal),
    ),
)]
pub(super) async fn cancel(
    viewer: Viewer,
    Id(redelivery_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<RedeliveryData>, ApiError> {
    visible_job(&state, viewer, redelivery_id).await?;
    state.store.cancel_redelivery(redelivery_id, state.clock.now()).await?;
    let job = visible_job(&state, viewer, redelivery_id).await?;
    let message = "The redelivery has ended; what is on its way stays so.";
    Ok(Reply { message: message.into(), data: RedeliveryData::from(&job) })
}

async fn visible_job(
    state: &ApiState,
    viewer: Viewer,
    redelivery_id: Uuid,
) -> Result<Redelivery, ApiError> {
    let job = state.store.redelivery(redelivery_id).await?.ok_or(NO_JOB)?;
    if !viewer.is_staff {
        let endpoint = state.store.endpoint(job.range.endpoint_id).await?;
        endpoint.filter(|endpoint| endpoint.owner == Some(viewer.user)).ok_or(NO_JOB)?;
    }
    Ok(job)
}

fn read_statuses(value: &Value) -> Result<Statuses, String> {
    let names = fields::list(3, |name| fields::text(name).map(str::to_owned))(value)?;
    Statuses::parse(names.iter().map(String::as_str))
        .map_err(|_| "Expected some of `exhausted`, `cancelled` and `missing`.".to_owned())
}
