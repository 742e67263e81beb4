//! Failures and their replays as people see them, here and on the command line.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::event::FailureCode;
use crate::finalize::{Difference, Outcome};
use crate::intake::Trial;
use crate::store::{Failure, FailureState, Replay, ReplayOutcome, ReplayState};

/// A longer event is for `…/raw/` alone.
const LONGEST_SHOWN: usize = 4 * 1024 * 1024;

/// An event that could not be finalized.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Failure)]
pub struct FailureData {
    id: Uuid,
    code: FailureCode,
    /// What to change about it.
    message: String,
    /// Where in it: a JSON pointer.
    pointer: Option<String>,
    state: FailureState,
    session_id: Option<Uuid>,
    tenant_id: Option<String>,
    character_slug: Option<String>,
    event_id: Option<String>,
    event_type: Option<String>,
    /// Where it came from: `amqp:finalizer.events`, `http`, `file:calls.ndjson:17`.
    source: String,
    size_bytes: i64,
    /// How often it failed in the same way.
    seen: i32,
    first_seen_at: DateTime<Utc>,
    last_seen_at: DateTime<Utc>,
    /// How often it was replayed.
    replays: i32,
    replayed_at: Option<DateTime<Utc>>,
    /// A replay is under way, or died over it.
    replaying_since: Option<DateTime<Utc>>,
    closed_at: Option<DateTime<Utc>>,
    closed_by: Option<String>,
    /// What the replay that closed it came to.
    outcome: Option<ReplayOutcome>,
    /// Another event was taken in its place.
    is_edited: bool,
    /// When its bytes were dropped.
    raw_expired_at: Option<DateTime<Utc>>,
}

/// A failure with its event: as the JSON that it is, as text, or else in base64; all three are null
/// if the bytes are dropped, or longer than 4 MiB.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FailureStory)]
pub struct FailureStoryData<'a> {
    #[serde(flatten)]
    failure: FailureData,
    /// What the transport said of it: a list of `{name, value}`.
    #[schema(value_type = Vec<Object>)]
    headers: Value,
    #[schema(value_type = Value)]
    event: Option<&'a RawValue>,
    event_text: Option<&'a str>,
    event_base64: Option<String>,
}

/// What became of a replayed event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReplayedEvent)]
pub struct OutcomeData {
    outcome: ReplayedAs,
    session_id: Option<Uuid>,
    /// Why it still fails.
    code: Option<FailureCode>,
    message: Option<String>,
    pointer: Option<String>,
}

/// In a word.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ReplayedAs {
    /// It made a revision of a session.
    Finalized,
    /// It had any other effect, or waits to be joined.
    Accepted,
    /// The event had been taken before.
    Duplicate,
    /// It still cannot be finalized.
    Failed,
}

/// What became of a replayed event, and its failure as it is then.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReplayedData {
    #[serde(flatten)]
    outcome: OutcomeData,
    failure: FailureData,
}

/// What a replay would come to, and in what the event differs from what is stored.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Trial)]
pub struct TrialData {
    #[serde(flatten)]
    outcome: OutcomeData,
    /// Always true.
    dry_run: bool,
    differences: Vec<DifferenceData>,
}

/// A field in which an event differs from what is stored; values are cut short.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Difference)]
struct DifferenceData {
    field: String,
    stored: Value,
    event: Value,
}

/// A replay of many failures and how far it has come.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Replay)]
pub struct ReplayData {
    id: Uuid,
    code: Option<FailureCode>,
    session_id: Option<Uuid>,
    character_slug: Option<String>,
    tenant_id: Option<String>,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    dry_run: bool,
    supersede: bool,
    per_second: u32,
    ordered_by: String,
    status: ReplayState,
    /// How many there were when it was ordered; null: too many to count.
    matched: Option<i64>,
    finalized: i64,
    accepted: i64,
    duplicates: i64,
    failed: i64,
    /// Not tried: closed, expired, or being replayed by another.
    skipped: i64,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
}

impl From<&Failure> for FailureData {
    fn from(failure: &Failure) -> Self {
        let rejection = &failure.rejection;
        let closed = failure.closed.as_ref();
        Self {
            id: failure.failure_id,
            code: rejection.code,
            message: rejection.message.clone(),
            pointer: rejection.pointer.clone(),
            state: failure.state,
            session_id: rejection.session_id,
            tenant_id: failure.tenant_id.clone(),
            character_slug: failure.character_slug.clone(),
            event_id: rejection.event_id.clone(),
            event_type: rejection.event_type.clone(),
            source: failure.source.clone(),
            size_bytes: failure.size_bytes,
            seen: failure.seen,
            first_seen_at: failure.first_seen_at,
            last_seen_at: failure.last_seen_at,
            replays: failure.replays,
            replayed_at: failure.replayed_at,
            replaying_since: failure.replaying.map(|replaying| replaying.since),
            closed_at: closed.map(|closed| closed.at),
            closed_by: closed.map(|closed| closed.by.clone()),
            outcome: closed.and_then(|closed| closed.outcome),
            is_edited: closed.is_some_and(|closed| closed.is_edited),
            raw_expired_at: failure.raw_expired_at,
        }
    }
}

impl<'a> FailureStoryData<'a> {
    /// Shows a failure and its event.
    pub fn new(failure: &Failure, raw: &'a [u8]) -> Self {
        let is_there = failure.raw_expired_at.is_none() && raw.len() <= LONGEST_SHOWN;
        let raw = Some(raw).filter(|_| is_there);
        let event = raw.and_then(|raw| serde_json::from_slice::<&RawValue>(raw).ok());
        let text = raw.filter(|_| event.is_none()).map(std::str::from_utf8);
        let is_binary = matches!(text, Some(Err(_)));
        let headers = failure.headers.as_deref().and_then(|text| serde_json::from_str(text).ok());
        Self {
            failure: failure.into(),
            headers: headers.unwrap_or_else(|| Value::Array(Vec::new())),
            event,
            event_text: text.and_then(Result::ok),
            event_base64: raw.filter(|_| is_binary).map(|raw| STANDARD.encode(raw)),
        }
    }
}

impl From<&Outcome> for OutcomeData {
    fn from(outcome: &Outcome) -> Self {
        let (named, session_id, rejection) = match outcome {
            Outcome::Finalized(session_id) => (ReplayedAs::Finalized, Some(*session_id), None),
            Outcome::Accepted(session_id) => (ReplayedAs::Accepted, *session_id, None),
            Outcome::Duplicate(session_id) => (ReplayedAs::Duplicate, *session_id, None),
            Outcome::Failed { rejection, .. } => {
                (ReplayedAs::Failed, rejection.session_id, Some(rejection))
            }
        };
        Self {
            outcome: named,
            session_id,
            code: rejection.map(|rejection| rejection.code),
            message: rejection.map(|rejection| rejection.message.clone()),
            pointer: rejection.and_then(|rejection| rejection.pointer.clone()),
        }
    }
}

impl ReplayedData {
    /// Shows a replay that has ended.
    pub(super) fn new(outcome: &Outcome, failure: &Failure) -> Self {
        Self { outcome: outcome.into(), failure: failure.into() }
    }
}

impl From<&Trial> for TrialData {
    fn from(trial: &Trial) -> Self {
        let differences = trial.differences.iter().cloned();
        let shown = differences.map(|Difference { field, stored, event }| DifferenceData {
            field,
            stored,
            event,
        });
        Self { outcome: (&trial.outcome).into(), dry_run: true, differences: shown.collect() }
    }
}

impl From<&Replay> for ReplayData {
    fn from(job: &Replay) -> Self {
        let (which, progress) = (&job.which, &job.progress);
        Self {
            id: job.replay_id,
            code: which.code,
            session_id: which.session_id,
            character_slug: which.character_slug.clone(),
            tenant_id: which.tenant_id.clone(),
            since: which.since,
            until: which.until,
            dry_run: job.is_dry_run,
            supersede: job.is_superseding,
            per_second: job.per_second,
            ordered_by: job.ordered_by.clone(),
            status: job.state,
            matched: job.matched,
            finalized: progress.finalized,
            accepted: progress.accepted,
            duplicates: progress.duplicates,
            failed: progress.failed,
            skipped: progress.skipped,
            created_at: job.created_at,
            finished_at: job.finished_at,
        }
    }
}
