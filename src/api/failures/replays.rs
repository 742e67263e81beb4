//! `/api/failures/replays/`: replaying all failures that a filter finds, as a job that outlives its
//! process.

use axum::extract::State;
use chrono::{DateTime, Utc};
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::ApiState;
use super::super::auth::Staff;
use super::super::envelope::{Created, Envelope, Refusal, Reply};
use super::super::error::ApiError;
use super::super::fields::{self, Fields, QueryFields};
use super::super::id::Id;
use super::{ReplayData, read_code};
use crate::clock::new_id;
use crate::event::FailureCode;
use crate::store::{
    MOST_PER_SECOND, OpenFailures, Progress, REPLAYS_PER_SECOND, Replay, ReplayState,
};

const NO_JOB: ApiError = ApiError::NotFound("There is no such replay.");

/// Which failures are to be replayed; left out: all that are open.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "says what `create` reads")]
struct NewReplay {
    #[schema(nullable = false)]
    code: Option<FailureCode>,
    #[schema(nullable = false)]
    session_id: Option<Uuid>,
    #[schema(nullable = false, min_length = 1, max_length = 512)]
    character_slug: Option<String>,
    #[schema(nullable = false, min_length = 1, max_length = 512)]
    tenant_id: Option<String>,
    /// Last seen then or later.
    #[schema(nullable = false)]
    since: Option<DateTime<Utc>>,
    /// Last seen before then.
    #[schema(nullable = false)]
    until: Option<DateTime<Utc>>,
    #[schema(nullable = false, minimum = 1, maximum = 5000)]
    per_second: Option<u32>,
    /// Only count what would happen.
    #[schema(nullable = false)]
    dry_run: Option<bool>,
    /// Let events that conflict with what is known take its place.
    #[schema(nullable = false)]
    supersede: Option<bool>,
}

/// Replays
///
/// The last 100, the newest first. Staff only.
#[utoipa::path(
    get, path = "/api/failures/replays/", tag = "Failures", operation_id = "list_replays",
    responses(
        (status = 200, description = "The replays", body = Envelope<Vec<ReplayData>>),
        (status = 403, description = "You are not staff", body = Refusal),
    ),
)]
pub(super) async fn list(
    _staff: Staff,
    State(state): State<ApiState>,
    QueryFields(query): QueryFields,
) -> Result<Reply<Vec<ReplayData>>, ApiError> {
    query.end()?;
    let jobs = state.store.replays().await?;
    let data = jobs.iter().map(ReplayData::from).collect();
    Ok(Reply { message: "The last replays, the newest first.".into(), data })
}

/// One replay
///
/// Staff only.
#[utoipa::path(
    get, path = "/api/failures/replays/{id}/", tag = "Failures", operation_id = "get_replay",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The replay", body = Envelope<ReplayData>),
        (status = 403, description = "You are not staff", body = Refusal),
        (status = 404, description = "There is no such replay", body = Refusal),
    ),
)]
pub(super) async fn show(
    _staff: Staff,
    Id(replay_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<ReplayData>, ApiError> {
    let job = find(&state, replay_id).await?;
    Ok(Reply { message: "The replay and how far it has come.".into(), data: (&job).into() })
}

/// Replay many failures
///
/// As a job that outlives its process. Staff only.
#[utoipa::path(
    post, path = "/api/failures/replays/", tag = "Failures", operation_id = "create_replay",
    request_body = Option<NewReplay>,
    responses((status = 201, description = "The replay", body = Envelope<ReplayData>), (status = 403, description = "You are not staff", body = Refusal)),
)]
pub(super) async fn create(
    Staff(viewer): Staff,
    State(state): State<ApiState>,
    fields: Fields,
) -> Result<Created<ReplayData>, ApiError> {
    let by = format!("user {}", viewer.user);
    let mut job = read(fields, by, &state)?;
    job.matched = state.store.count_open_failures(&job.which).await?;
    state.store.add_replay(&job).await?;
    let message =
        if job.is_dry_run { "The replay runs, and changes nothing." } else { "The replay runs." };
    Ok(Created(Reply { message: message.into(), data: (&job).into() }))
}

fn read(mut fields: Fields, ordered_by: String, state: &ApiState) -> Result<Replay, ApiError> {
    let now = state.clock.now();
    let all = OpenFailures::all(now);
    let which = OpenFailures {
        code: fields.given("code", read_code),
        session_id: fields.given("session_id", fields::id),
        character_slug: fields.given("character_slug", fields::name),
        tenant_id: fields.given("tenant_id", fields::name),
        since: fields.given("since", fields::time).unwrap_or(all.since),
        until: fields.given("until", fields::time).unwrap_or(all.until),
        end: all.end,
    };
    let per_second = fields.given("per_second", fields::within(1..=MOST_PER_SECOND));
    let is_dry_run = fields.given("dry_run", fields::boolean).unwrap_or(false);
    let is_superseding = fields.given("supersede", fields::boolean).unwrap_or(false);
    if which.since >= which.until {
        fields.wrong("until", "Expected a time after `since`.");
    }
    fields.end()?;
    Ok(Replay {
        replay_id: new_id(now),
        which,
        is_dry_run,
        is_superseding,
        per_second: per_second.unwrap_or(REPLAYS_PER_SECOND),
        ordered_by,
        state: ReplayState::Running,
        matched: None,
        progress: Progress::default(),
        created_at: now,
        finished_at: None,
    })
}

/// Stop a replay
///
/// What was replayed stays so. Staff only.
#[utoipa::path(
    delete, path = "/api/failures/replays/{id}/", tag = "Failures", operation_id = "cancel_replay",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The replay", body = Envelope<ReplayData>),
        (status = 403, description = "You are not staff", body = Refusal),
        (status = 404, description = "There is no such replay", body = Refusal),
    ),
)]
pub(super) async fn cancel(
    _staff: Staff,
    Id(replay_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<ReplayData>, ApiError> {
    find(&state, replay_id).await?;
    state.store.cancel_replay(replay_id, state.clock.now()).await?;
    let job = find(&state, replay_id).await?;
    let message = "The replay has ended; what was replayed stays so.";
    Ok(Reply { message: message.into(), data: (&job).into() })
}

async fn find(state: &ApiState, replay_id: Uuid) -> Result<Replay, ApiError> {
    state.store.replay(replay_id).await?.ok_or(NO_JOB)
}
