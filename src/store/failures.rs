//! Events that could not be finalized: what is kept of them, and how one of them is taken again.
//!
//! A replay has two transactions. The first writes the process that tries into the failure's row
//! (its marker), the second holds the effect of the event, the failure's new state and the end of
//! the marker together. So an effect without its state does not exist, and of a process that died
//! in between the marker tells.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::transaction::Transaction;
use super::{StoreError, Terms};
use crate::event::{FailureCode, Rejection};
use crate::finalize::{Outcome, Prepared, Session};

/// Later than every time that an event may have.
const END_OF_TIME: DateTime<Utc> =
    DateTime::from_timestamp(253_402_300_799, 0).expect("the year 9999 is a time");

/// An event that could not be finalized.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// Its id.
    pub failure_id: Uuid,
    /// Code, pointer, sentence, and what could be told of the event.
    pub rejection: Rejection,
    /// Where the event came from: `amqp:finalizer.events`, `http`, `file:calls.ndjson:17`.
    pub source: String,
    /// What the transport said of it: a JSON list of `{name, value}`.
    pub headers: Option<String>,
    /// The tenant, if the event tells.
    pub tenant_id: Option<String>,
    /// The character, if the event tells.
    pub character_slug: Option<String>,
    /// How many bytes it has.
    pub size_bytes: i64,
    /// How often the same event failed in the same way.
    pub seen: i32,
    /// When first.
    pub first_seen_at: DateTime<Utc>,
    /// When last.
    pub last_seen_at: DateTime<Utc>,
    /// How it stands.
    pub state: FailureState,
    /// How it came to be closed, if it is.
    pub closed: Option<Closed>,
    /// How often it was replayed.
    pub replays: i32,
    /// When last.
    pub replayed_at: Option<DateTime<Utc>>,
    /// When its bytes were dropped.
    pub raw_expired_at: Option<DateTime<Utc>>,
    /// The attempt that has not ended.
    pub replaying: Option<Replaying>,
}

/// How a failure stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FailureState {
    /// Its event has had no effect.
    Open,
    /// A replay of it went well.
    Replayed,
    /// Somebody said that it does not matter.
    Discarded,
}

impl FailureState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Open, Self::Replayed, Self::Discarded];

    /// The state as it stands in databases, in the API and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
        }
    }

    /// The state with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// How a failure came to be closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// When.
    pub at: DateTime<Utc>,
    /// By whom.
    pub by: String,
    /// What the replay came to; `None` for one that was discarded.
    pub outcome: Option<ReplayOutcome>,
    /// Another event was taken in its place.
    pub is_edited: bool,
}

/// An attempt to replay a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaying {
    /// The process that tries. If it is dead, the attempt did not come back.
    pub process: Uuid,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// What a replay that went well came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReplayOutcome {
    /// It made a revision of a session.
    Finalized,
    /// It had any other effect, or waits to be joined.
    Accepted,
    /// The event had been taken before.
    Duplicate,
}

impl ReplayOutcome {
    /// What a good outcome comes to; `None` for a failed one.
    pub fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Finalized(_) => Some(Self::Finalized),
            Outcome::Accepted(_) => Some(Self::Accepted),
            Outcome::Duplicate(_) => Some(Self::Duplicate),
            Outcome::Failed { .. } => None,
        }
    }

    /// The outcome as it stands in databases and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finalized => "finalized",
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
        }
    }

    /// The outcome with this name.
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Finalized, Self::Accepted, Self::Duplicate];
        all.into_iter().find(|outcome| outcome.as_str() == name)
    }
}

/// Which failures to list.
#[derive(Debug, Clone, Default)]
pub struct FailureFilter {
    /// Only this code.
    pub code: Option<FailureCode>,
    /// Only in this state.
    pub state: Option<FailureState>,
    /// Only about this session.
    pub session_id: Option<Uuid>,
    /// Only of this character.
    pub character_slug: Option<String>,
    /// Only of this tenant.
    pub tenant_id: Option<String>,
    /// Only what was last seen from then on.
    pub since: Option<DateTime<Utc>>,
    /// And before then.
    pub until: Option<DateTime<Utc>>,
    /// Only what comes behind this place in the list.
    pub before: Option<FailurePlace>,
    /// At most so many.
    pub limit: u32,
}

/// A failure's place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FailurePlace {
    last_seen_at: DateTime<Utc>,
    failure_id: Uuid,
}

impl FailurePlace {
    /// Where this failure stands.
    pub fn of(failure: &Failure) -> Self {
        Self { last_seen_at: failure.last_seen_at, failure_id: failure.failure_id }
    }

    /// The place as text.
    pub fn to_text(self) -> String {
        format!("{}_{}", self.last_seen_at.timestamp_micros(), self.failure_id.simple())
    }

    /// The place that such a text names.
    pub fn parse(text: &str) -> Option<Self> {
        let (time, failure_id) = text.split_once('_')?;
        let last_seen_at = DateTime::from_timestamp_micros(time.parse().ok()?)?;
        let failure_id = Uuid::try_parse(failure_id).ok()?;
        (last_seen_at <= END_OF_TIME).then_some(Self { last_seen_at, failure_id })
    }
}

impl FailureFilter {
    /// Nothing at or above this place is listed.
    pub(super) fn end(&self) -> FailurePlace {
        let last_seen_at = self.until.unwrap_or(END_OF_TIME).min(END_OF_TIME);
        let end = FailurePlace { last_seen_at, failure_id: Uuid::nil() };
        self.before.map_or(end, |before| before.min(end))
    }
}

/// Why a failure is not replayed, or not discarded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not there.
    #[error("There is no such failure.")]
    Unknown,
    /// It was replayed.
    #[error("It was replayed at {} by {by}: its event has had its effect.", second(*at))]
    Replayed {
        /// When.
        at: DateTime<Utc>,
        /// By whom.
        by: String,
    },
    /// It was discarded.
    #[error("It was discarded at {} by {by}; if its event comes again, it is open again.", second(*at))]
    Discarded {
        /// When.
        at: DateTime<Utc>,
        /// By whom.
        by: String,
    },
    /// Its bytes are gone.
    #[error(
        "Its bytes were kept until {} (--failure-retention) and are gone: let the publisher send \
         the event again, or replay it with the event at hand.", second(*at)
    )]
    Expired {
        /// Since when.
        at: DateTime<Utc>,
    },
    /// Somebody else replays it.
    #[error("It has been in the middle of another replay since {}.", second(*since))]
    BeingReplayed {
        /// Since when.
        since: DateTime<Utc>,
    },
    /// The process that replayed it died.
    #[error(
        "The process that replayed it at {} died over it, so no job tries it again: replay it by \
         its id.", second(*since)
    )]
    Died {
        /// When it began.
        since: DateTime<Utc>,
    },
}

fn second(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

impl Refusal {
    /// The same for programs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Replayed { .. } => "already_replayed",
            Self::Discarded { .. } => "already_discarded",
            Self::Expired { .. } => "expired",
            Self::BeingReplayed { .. } => "being_replayed",
            Self::Died { .. } => "died",
        }
    }

    /// Why a replay of this failure is not even tried out, if it is not.
    pub fn to_try(failure: &Failure, is_named: bool, is_edited: bool) -> Option<Self> {
        let is_out_of_reach = failure.state != FailureState::Open
            || (failure.raw_expired_at.is_some() && !is_edited)
            || (failure.replaying.is_some() && !is_named);
        // Of a process that tries it is not known here whether it lives.
        is_out_of_reach.then(|| Self::of(Some(failure), true))
    }

    /// Why a replay came to nothing whose marker was gone.
    pub fn taken_over(failure: &Failure) -> Self {
        Self::of(Some(failure), true)
    }

    /// Why this failure cannot be replayed as it stands; `is_alive` tells of the process that tries.
    pub(super) fn of(failure: Option<&Failure>, is_alive: bool) -> Self {
        let Some(failure) = failure else { return Self::Unknown };
        if let Some(Closed { at, by, .. }) = failure.closed.clone() {
            return match failure.state {
                FailureState::Discarded => Self::Discarded { at, by },
                FailureState::Open | FailureState::Replayed => Self::Replayed { at, by },
            };
        }
        match (failure.replaying, failure.raw_expired_at) {
            (Some(Replaying { since, .. }), _) if is_alive => Self::BeingReplayed { since },
            (_, Some(at)) => Self::Expired { at },
            (Some(Replaying { since, .. }), None) => Self::Died { since },
            // Somebody was in the middle of it a moment ago.
            (None, None) => {
                Self::BeingReplayed { since: failure.replayed_at.unwrap_or(failure.last_seen_at) }
            }
        }
    }
}

/// Who begins to replay which failure.
#[derive(Debug, Clone, Copy)]
pub struct Beginning {
    /// The failure.
    pub failure_id: Uuid,
    /// The process that tries; it must be known as alive.
    pub process: Uuid,
    /// Somebody asked for this very failure: that a process died over it is no hindrance.
    pub is_named: bool,
    /// Another event is taken in its place: its own bytes need not be there.
    pub is_edited: bool,
    /// The present.
    pub now: DateTime<Utc>,
}

/// A replay that is to end: its event, and what it is of.
#[derive(Clone, Copy)]
pub struct Ending<'a> {
    /// The world.
    pub terms: Terms<'a>,
    /// The failure, which `process` began to replay.
    pub failure_id: Uuid,
    /// See `failure_id`.
    pub process: Uuid,
    /// The event.
    pub event: &'a Prepared,
    /// It is not the failure's own.
    pub is_edited: bool,
    /// Who ordered it.
    pub by: &'a str,
    /// The job that it is a step of; counted in the same transaction.
    pub replay_id: Option<Uuid>,
}

/// What would become of an event.
#[derive(Debug)]
pub struct Tried {
    /// This.
    pub outcome: Outcome,
    /// The session as it stands, if the event is about one that does.
    pub stored: Option<Session>,
}

/// The statements on failures that go row by row, with the same text in both databases: see
/// `impl_failures`.
#[async_trait::async_trait]
pub(super) trait FailureRows {
    /// The replay went well: the failure is closed. `false`: it is not this process's any more.
    async fn close_failure(
        &mut self,
        ending: &Ending<'_>,
        outcome: ReplayOutcome,
        session_id: Option<Uuid>,
    ) -> Result<bool, StoreError>;
    /// The replay failed: the failure stays open. `false`: it is not this process's any more.
    async fn keep_failing(
        &mut self,
        ending: &Ending<'_>,
        rejection: &Rejection,
    ) -> Result<bool, StoreError>;
    /// Counts a step of a job. `false`: the job is not this process's any more.
    async fn count_step(
        &mut self,
        replay_id: Uuid,
        process: Uuid,
        step: &super::replays::Progress,
    ) -> Result<bool, StoreError>;
}

/// Writes what became of the replay beside its effect. `false`: somebody else has the failure or
/// the job now, and nothing of this may be.
pub(super) async fn end(
    tx: &mut dyn Transaction,
    ending: &Ending<'_>,
    outcome: &Outcome,
) -> Result<bool, StoreError> {
    let is_own = match outcome {
        Outcome::Finalized(session_id) => {
            tx.close_failure(ending, ReplayOutcome::Finalized, Some(*session_id)).await?
        }
        Outcome::Accepted(session_id) => {
            tx.close_failure(ending, ReplayOutcome::Accepted, *session_id).await?
        }
        Outcome::Duplicate(session_id) => {
            tx.close_failure(ending, ReplayOutcome::Duplicate, *session_id).await?
        }
        Outcome::Failed { rejection, .. } => tx.keep_failing(ending, rejection).await?,
    };
    let Some(replay_id) = ending.replay_id.filter(|_| is_own) else { return Ok(is_own) };
    let step = super::replays::Progress::of(outcome, ending.failure_id);
    tx.count_step(replay_id, ending.process, &step).await
}

pub(super) const PUT_FAILURE: &str =
    "INSERT INTO failures (failure_id, code, pointer, message, session_id, event_id, event_type,
        source, size_bytes, seen, first_seen_at, last_seen_at, raw, raw_sha256, headers, tenant_id,
        character_slug)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, $10, $10, $11, $12, $13, $14, $15)
    ON CONFLICT (raw_sha256, code) DO UPDATE SET
        seen = failures.seen + 1, last_seen_at = excluded.last_seen_at,
        pointer = excluded.pointer, message = excluded.message, source = excluded.source,
        headers = excluded.headers, state = 'open', closed_at = NULL, closed_by = NULL,
        outcome = NULL, is_edited = FALSE, raw_expired_at = NULL,
        raw = CASE WHEN failures.raw_expired_at IS NULL THEN failures.raw ELSE excluded.raw END
    RETURNING failure_id";

pub(super) const FAILURES: &str = concat!(
    "SELECT ",
    super::sql::failure_columns!(),
    " FROM failures
    WHERE (last_seen_at, failure_id) < ($1, $2) AND last_seen_at >= $3
      AND ($4 IS NULL OR code = $4) AND ($5 IS NULL OR state = $5)
      AND ($6 IS NULL OR session_id = $6) AND ($7 IS NULL OR character_slug = $7)
      AND ($8 IS NULL OR tenant_id = $8)
    ORDER BY last_seen_at DESC, failure_id DESC
    LIMIT $9"
);

pub(super) const FAILURE: &str =
    concat!("SELECT ", super::sql::failure_columns!(), ", raw FROM failures WHERE failure_id = $1");

pub(super) const FAILURE_ALONE: &str =
    concat!("SELECT ", super::sql::failure_columns!(), " FROM failures WHERE failure_id = $1");

pub(super) const IS_ALIVE: &str =
    "SELECT COUNT(*) FROM processes WHERE process_id = $1 AND alive_until > $2";

pub(super) const BEGIN_REPLAY: &str = concat!(
    "UPDATE failures SET replaying_process = $2, replaying_since = $3
    WHERE failure_id = $1 AND state = 'open' AND (raw_expired_at IS NULL OR $5)
      AND (replaying_process IS NULL OR ($4 AND NOT EXISTS (
        SELECT 1 FROM processes
        WHERE processes.process_id = failures.replaying_process AND alive_until > $3)))
    RETURNING ",
    super::sql::failure_columns!(),
    ", raw"
);

pub(super) const CLOSE_FAILURE: &str = "UPDATE failures
    SET state = 'replayed', closed_at = $3, closed_by = $4, outcome = $5, is_edited = $6,
        session_id = COALESCE(session_id, $7), replays = replays + 1, replayed_at = $3,
        replaying_process = NULL, replaying_since = NULL
    WHERE failure_id = $1 AND replaying_process = $2 AND state = 'open'";

/// An edited event says nothing of the failure's own.
pub(super) const STAY_OPEN: &str = "UPDATE failures
    SET replays = replays + 1, replayed_at = $3, replaying_process = NULL, replaying_since = NULL
    WHERE failure_id = $1 AND replaying_process = $2 AND state = 'open'";

/// The reason is the present one, unless the same event is kept a second time for that reason: that
/// failure tells of it then.
pub(super) const KEEP_FAILING: &str = "UPDATE failures
    SET code = $4, pointer = $5, message = $6, session_id = COALESCE($7, session_id),
        event_id = COALESCE($8, event_id), event_type = COALESCE($9, event_type),
        last_seen_at = $3, replays = replays + 1, replayed_at = $3,
        replaying_process = NULL, replaying_since = NULL
    WHERE failure_id = $1 AND replaying_process = $2 AND state = 'open'
      AND NOT EXISTS (
        SELECT 1 FROM failures AS other
        WHERE other.raw_sha256 = failures.raw_sha256 AND other.code = $4
          AND other.failure_id <> failures.failure_id)";

pub(super) const ABANDON_REPLAY: &str = "UPDATE failures
    SET replaying_process = NULL, replaying_since = NULL
    WHERE failure_id = $1 AND replaying_process = $2";

pub(super) const ABANDON_REPLAYS_OF: &str = "UPDATE failures
    SET replaying_process = NULL, replaying_since = NULL
    WHERE replaying_process = $1";

pub(super) const DISCARD_FAILURE: &str = "UPDATE failures
    SET state = 'discarded', closed_at = $2, closed_by = $3
    WHERE failure_id = $1 AND state = 'open'
      AND (replaying_process IS NULL OR NOT EXISTS (
        SELECT 1 FROM processes
        WHERE processes.process_id = failures.replaying_process AND alive_until > $2))";

/// What a store brings for failures and their replays; both databases have the same statements.
/// `EXPIRE_RAW` alone differs.
macro_rules! impl_failures {
    ($store:ty) => {
        impl $store {
            async fn list_failures(
                &self,
                filter: &FailureFilter,
            ) -> Result<Vec<Failure>, StoreError> {
                let end = filter.end();
                let (end_at, end_id) = failures::end_of(end);
                all::<FailureRow, _>(
                    query_as(failures::FAILURES)
                        .bind(end_at)
                        .bind(end_id)
                        .bind(filter.since.unwrap_or(DateTime::UNIX_EPOCH))
                        .bind(filter.code.map(FailureCode::as_str))
                        .bind(filter.state.map(failures::FailureState::as_str))
                        .bind(filter.session_id)
                        .bind(&filter.character_slug)
                        .bind(&filter.tenant_id)
                        .bind(i64::from(filter.limit)),
                    &self.readers,
                )
                .await
            }

            async fn find_failure(
                &self,
                failure_id: Uuid,
            ) -> Result<Option<(Failure, Bytes)>, StoreError> {
                let row: Option<RawFailureRow> = query_as(failures::FAILURE)
                    .bind(failure_id)
                    .fetch_optional(&self.readers)
                    .await
                    .map_err(failed)?;
                row.map(RawFailureRow::read).transpose()
            }

            /// Why nothing happened to a failure.
            async fn refusal(
                &self,
                failure_id: Uuid,
                now: DateTime<Utc>,
            ) -> Result<Refusal, StoreError> {
                let failure = one::<FailureRow, Failure>(
                    query_as(failures::FAILURE_ALONE).bind(failure_id),
                    &self.readers,
                )
                .await?;
                let process = failure.as_ref().and_then(|failure| failure.replaying);
                let alive: i64 = query_scalar(failures::IS_ALIVE)
                    .bind(process.map(|replaying| replaying.process))
                    .bind(now)
                    .fetch_one(&self.readers)
                    .await
                    .map_err(failed)?;
                Ok(Refusal::of(failure.as_ref(), alive > 0))
            }

            async fn begin_replay_of(
                &self,
                beginning: &Beginning,
            ) -> Result<Result<(Failure, Bytes), Refusal>, StoreError> {
                let row: Option<RawFailureRow> = query_as(failures::BEGIN_REPLAY)
                    .bind(beginning.failure_id)
                    .bind(beginning.process)
                    .bind(beginning.now)
                    .bind(beginning.is_named)
                    .bind(beginning.is_edited)
                    .fetch_optional(&self.writer)
                    .await
                    .map_err(failed)?;
                match row {
                    Some(row) => row.read().map(Ok),
                    None => self.refusal(beginning.failure_id, beginning.now).await.map(Err),
                }
            }

            async fn end_replay_of(
                &self,
                ending: &Ending<'_>,
            ) -> Result<Option<Taken>, StoreError> {
                let begin = || async {
                    Ok(Box::new(Writing(self.begin().await?)) as Box<dyn Transaction + 'static>)
                };
                take::take_again(begin, self.installation, ending).await
            }

            async fn try_event(
                &self,
                terms: Terms<'_>,
                event: &Prepared,
            ) -> Result<Tried, StoreError> {
                let mut tx = Writing(self.begin().await?);
                take::try_out(&mut tx, self.installation, terms, event).await
            }

            async fn abandon_replay_of(
                &self,
                failure_id: Uuid,
                process: Uuid,
            ) -> Result<(), StoreError> {
                query(failures::ABANDON_REPLAY)
                    .bind(failure_id)
                    .bind(process)
                    .execute(&self.writer)
                    .await
                    .map_err(failed)?;
                Ok(())
            }

            async fn abandon_all_of(&self, process: Uuid) -> Result<(), StoreError> {
                let mut tx = self.begin().await?;
                let statements =
                    [failures::ABANDON_REPLAYS_OF, replays::GIVE_BACK_REPLAYS, sql::LEAVE];
                for statement in statements {
                    query(statement).bind(process).execute(&mut *tx).await.map_err(failed)?;
                }
                tx.commit().await.map_err(failed)
            }

            async fn discard(
                &self,
                failure_id: Uuid,
                by: &str,
                now: DateTime<Utc>,
            ) -> Result<Result<(), Refusal>, StoreError> {
                let discarded = query(failures::DISCARD_FAILURE)
                    .bind(failure_id)
                    .bind(now)
                    .bind(by)
                    .execute(&self.writer)
                    .await
                    .map_err(failed)?;
                if discarded.rows_affected() > 0 {
                    return Ok(Ok(()));
                }
                self.refusal(failure_id, now).await.map(Err)
            }

            async fn expire_raw(
                &self,
                last_seen_by: DateTime<Utc>,
                now: DateTime<Utc>,
                limit: u32,
            ) -> Result<u64, StoreError> {
                let expired = query(EXPIRE_RAW)
                    .bind(last_seen_by)
                    .bind(now)
                    .bind(Vec::<u8>::new())
                    .bind(i64::from(limit))
                    .execute(&self.writer)
                    .await
                    .map_err(failed)?;
                Ok(expired.rows_affected())
            }
        }

        #[async_trait]
        impl FailureRows for Writing {
            async fn close_failure(
                &mut self,
                ending: &Ending<'_>,
                outcome: failures::ReplayOutcome,
                session_id: Option<Uuid>,
            ) -> Result<bool, StoreError> {
                let closed = query(failures::CLOSE_FAILURE)
                    .bind(ending.failure_id)
                    .bind(ending.process)
                    .bind(ending.terms.now)
                    .bind(ending.by)
                    .bind(outcome.as_str())
                    .bind(ending.is_edited)
                    .bind(session_id)
                    .execute(&mut *self.0)
                    .await
                    .map_err(failed)?;
                Ok(closed.rows_affected() > 0)
            }

            async fn keep_failing(
                &mut self,
                ending: &Ending<'_>,
                rejection: &crate::event::Rejection,
            ) -> Result<bool, StoreError> {
                let mut kept = 0;
                if !ending.is_edited {
                    kept = query(failures::KEEP_FAILING)
                        .bind(ending.failure_id)
                        .bind(ending.process)
                        .bind(ending.terms.now)
                        .bind(rejection.code.as_str())
                        .bind(&rejection.pointer)
                        .bind(&rejection.message)
                        .bind(rejection.session_id)
                        .bind(&rejection.event_id)
                        .bind(&rejection.event_type)
                        .execute(&mut *self.0)
                        .await
                        .map_err(failed)?
                        .rows_affected();
                }
                if kept == 0 {
                    kept = query(failures::STAY_OPEN)
                        .bind(ending.failure_id)
                        .bind(ending.process)
                        .bind(ending.terms.now)
                        .execute(&mut *self.0)
                        .await
                        .map_err(failed)?
                        .rows_affected();
                }
                Ok(kept > 0)
            }

            async fn count_step(
                &mut self,
                replay_id: Uuid,
                process: Uuid,
                step: &replays::Progress,
            ) -> Result<bool, StoreError> {
                let counted = query(replays::COUNT_STEPS)
                    .bind(replay_id)
                    .bind(process)
                    .bind(step.finalized)
                    .bind(step.accepted)
                    .bind(step.duplicates)
                    .bind(step.failed)
                    .bind(step.skipped)
                    .bind(step.last_failure)
                    .execute(&mut *self.0)
                    .await
                    .map_err(failed)?;
                Ok(counted.rows_affected() > 0)
            }
        }
    };
}

/// The parts of a place, to be bound.
pub(super) fn end_of(place: FailurePlace) -> (DateTime<Utc>, Uuid) {
    (place.last_seen_at, place.failure_id)
}

pub(super) use impl_failures;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let place = FailurePlace {
            last_seen_at: DateTime::from_timestamp_micros(1_780_000_000_123_456).unwrap(),
            failure_id: Uuid::from_u128(7),
        };
        assert_eq!(FailurePlace::parse(&place.to_text()), Some(place));
        for text in ["", "_", "7", "7_", "x_00000000000000000000000000000007", "9_zz"] {
            assert_eq!(FailurePlace::parse(text), None, "{text}");
        }
    }

    #[test]
    fn nothing_at_or_after_the_end_is_listed() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        let place = FailurePlace { last_seen_at: at(20), failure_id: Uuid::from_u128(7) };
        let until =
            |until| FailureFilter { until, before: Some(place), ..FailureFilter::default() };
        assert_eq!(until(None).end(), place);
        assert_eq!(until(Some(at(21))).end(), place);
        assert_eq!(end_of(until(Some(at(20))).end()), (at(20), Uuid::nil()));
        assert_eq!(end_of(FailureFilter::default().end()).0, END_OF_TIME);
    }
}
