//! Replaying all failures that a filter finds: a job in the database, in one row. A process takes a
//! job for as long as it lives; how far it has come is counted in the transaction of each step, so
//! that whoever goes on after a crash goes on where it ended.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::redelivery::least_id;
use crate::event::FailureCode;
use crate::finalize::Outcome;

/// How fast a replay is, unless somebody says otherwise.
pub const REPLAYS_PER_SECOND: u32 = 200;
/// More failures than this are not counted beforehand.
pub(super) const MOST_COUNTED: i64 = 100_000;

/// A replay of many failures.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    /// Its id.
    pub replay_id: Uuid,
    /// Which failures.
    pub which: OpenFailures,
    /// It tells what would happen, and changes nothing.
    pub is_dry_run: bool,
    /// Events that conflict with what is known take its place.
    pub is_superseding: bool,
    /// At most so many a second.
    pub per_second: u32,
    /// Who ordered it.
    pub ordered_by: String,
    /// Where it stands.
    pub state: ReplayState,
    /// How many there were when it was ordered; `None`: very many.
    pub matched: Option<i64>,
    /// What has become of those it came to.
    pub progress: Progress,
    /// When it was ordered.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Failures that are open, in the order in which they were first seen.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenFailures {
    /// Only this code.
    pub code: Option<FailureCode>,
    /// Only about this session.
    pub session_id: Option<Uuid>,
    /// Only of this character.
    pub character_slug: Option<String>,
    /// Only of this tenant.
    pub tenant_id: Option<String>,
    /// Only what was last seen from then on.
    pub since: DateTime<Utc>,
    /// And before then.
    pub until: DateTime<Utc>,
    /// None that was first seen later than this one.
    pub end: Uuid,
}

impl OpenFailures {
    /// All that are open now. What fails from now on is for another time: a replay comes to an end.
    pub fn all(now: DateTime<Utc>) -> Self {
        let (since, until) = (DateTime::UNIX_EPOCH, now + TimeDelta::days(1));
        let (code, session_id, character_slug, tenant_id) = (None, None, None, None);
        // Clocks differ a little, and ids of one millisecond are in no order.
        let end = least_id(now + TimeDelta::seconds(1));
        Self { code, session_id, character_slug, tenant_id, since, until, end }
    }
}

/// Where a replay stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReplayState {
    /// It goes on.
    Running,
    /// Every failure was tried.
    Done,
    /// Somebody stopped it.
    Cancelled,
}

impl ReplayState {
    /// The state as it stands in databases and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state with this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Running, Self::Done, Self::Cancelled].into_iter().find(|s| s.as_str() == name)
    }
}

/// How many came to what, and how far that is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// They made a revision of a session.
    pub finalized: i64,
    /// They had any other effect.
    pub accepted: i64,
    /// They had been taken before.
    pub duplicates: i64,
    /// They still cannot be finalized.
    pub failed: i64,
    /// They were not tried: somebody else replays them, or a process died over them.
    pub skipped: i64,
    /// The last failure that was come to.
    pub last_failure: Uuid,
}

impl Progress {
    /// One step that came to this.
    pub fn of(outcome: &Outcome, last_failure: Uuid) -> Self {
        let mut step = Self { last_failure, ..Self::default() };
        let counted = match outcome {
            Outcome::Finalized(_) => &mut step.finalized,
            Outcome::Accepted(_) => &mut step.accepted,
            Outcome::Duplicate(_) => &mut step.duplicates,
            Outcome::Failed { .. } => &mut step.failed,
        };
        *counted = 1;
        step
    }

    /// One that was not tried.
    pub fn skipped(last_failure: Uuid) -> Self {
        Self { skipped: 1, last_failure, ..Self::default() }
    }

    /// And these.
    pub fn add(&mut self, step: &Self) {
        let Self { finalized, accepted, duplicates, failed, skipped, last_failure } = step;
        self.finalized += finalized;
        self.accepted += accepted;
        self.duplicates += duplicates;
        self.failed += failed;
        self.skipped += skipped;
        self.last_failure = *last_failure;
    }

    /// All of them.
    pub fn count(&self) -> i64 {
        self.finalized + self.accepted + self.duplicates + self.failed + self.skipped
    }
}

macro_rules! replay_columns {
    () => {
        "replay_id, code, session_id, character_slug, tenant_id, since, until, is_dry_run, \
         is_superseding, per_second, ordered_by, state, matched, finalized, accepted, duplicates, \
         failed, skipped, last_failure, end_failure, created_at, finished_at"
    };
}

/// `$1` to `$8` are what [`OpenFailures`] says, with the failure to begin behind.
macro_rules! open_failures {
    () => {
        " FROM failures
        WHERE state = 'open' AND failure_id > $1 AND failure_id <= $2
          AND last_seen_at >= $3 AND last_seen_at < $4
          AND ($5 IS NULL OR code = $5) AND ($6 IS NULL OR session_id = $6)
          AND ($7 IS NULL OR character_slug = $7) AND ($8 IS NULL OR tenant_id = $8)"
    };
}

pub(super) const OPEN_FAILURES: &str =
    concat!("SELECT failure_id", open_failures!(), " ORDER BY failure_id LIMIT $9");

pub(super) const COUNT_OPEN_FAILURES: &str =
    concat!("SELECT COUNT(*) FROM (SELECT 1 AS one", open_failures!(), " LIMIT $9) AS found");

pub(super) const ADD_REPLAY: &str = concat!(
    "INSERT INTO replays (",
    replay_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
        $20, $21, $22)"
);

pub(super) const REPLAYS: &str =
    concat!("SELECT ", replay_columns!(), " FROM replays ORDER BY replay_id DESC LIMIT 100");

pub(super) const REPLAY: &str =
    concat!("SELECT ", replay_columns!(), " FROM replays WHERE replay_id = $1");

pub(super) const CANCEL_REPLAY: &str = "UPDATE replays
    SET state = 'cancelled', finished_at = $2, process_id = NULL
    WHERE replay_id = $1 AND state = 'running'";

/// Whoever waited for the lock of the row finds that it is another's.
pub(super) const TAKE_REPLAY: &str = concat!(
    "UPDATE replays SET process_id = $1
    WHERE state = 'running'
      AND (process_id IS NULL OR NOT EXISTS (
        SELECT 1 FROM processes
        WHERE processes.process_id = replays.process_id AND alive_until > $2))
      AND replay_id = (
        SELECT replay_id FROM replays
        WHERE state = 'running'
          AND (process_id IS NULL OR NOT EXISTS (
            SELECT 1 FROM processes
            WHERE processes.process_id = replays.process_id AND alive_until > $2))
        ORDER BY replay_id LIMIT 1)
    RETURNING ",
    replay_columns!()
);

pub(super) const GIVE_BACK_REPLAYS: &str =
    "UPDATE replays SET process_id = NULL WHERE process_id = $1";

pub(super) const GIVE_BACK_REPLAY: &str =
    "UPDATE replays SET process_id = NULL WHERE replay_id = $1 AND process_id = $2";

pub(super) const COUNT_STEPS: &str = "UPDATE replays
    SET finalized = finalized + $3, accepted = accepted + $4, duplicates = duplicates + $5,
        failed = failed + $6, skipped = skipped + $7, last_failure = $8
    WHERE replay_id = $1 AND process_id = $2 AND state = 'running'";

pub(super) const FINISH_REPLAY: &str = "UPDATE replays
    SET state = 'done', finished_at = $3, process_id = NULL
    WHERE replay_id = $1 AND process_id = $2 AND state = 'running'";

/// What a store brings for jobs; both databases have the same statements.
macro_rules! impl_replays {
    ($store:ty) => {
        impl $store {
            async fn find_open_failures(
                &self,
                which: &OpenFailures,
                after: Uuid,
                limit: u32,
            ) -> Result<Vec<Uuid>, StoreError> {
                query_scalar(replays::OPEN_FAILURES)
                    .bind(after)
                    .bind(which.end)
                    .bind(which.since)
                    .bind(which.until)
                    .bind(which.code.map(FailureCode::as_str))
                    .bind(which.session_id)
                    .bind(&which.character_slug)
                    .bind(&which.tenant_id)
                    .bind(i64::from(limit))
                    .fetch_all(&self.readers)
                    .await
                    .map_err(failed)
            }

            async fn count_open(&self, which: &OpenFailures) -> Result<Option<i64>, StoreError> {
                let count: i64 = query_scalar(replays::COUNT_OPEN_FAILURES)
                    .bind(Uuid::nil())
                    .bind(which.end)
                    .bind(which.since)
                    .bind(which.until)
                    .bind(which.code.map(FailureCode::as_str))
                    .bind(which.session_id)
                    .bind(&which.character_slug)
                    .bind(&which.tenant_id)
                    .bind(replays::MOST_COUNTED)
                    .fetch_one(&self.readers)
                    .await
                    .map_err(failed)?;
                Ok((count < replays::MOST_COUNTED).then_some(count))
            }

            async fn insert_replay(&self, job: &Replay) -> Result<(), StoreError> {
                query(replays::ADD_REPLAY)
                    .bind(job.replay_id)
                    .bind(job.which.code.map(FailureCode::as_str))
                    .bind(job.which.session_id)
                    .bind(&job.which.character_slug)
                    .bind(&job.which.tenant_id)
                    .bind(job.which.since)
                    .bind(job.which.until)
                    .bind(job.is_dry_run)
                    .bind(job.is_superseding)
                    .bind(number(job.per_second))
                    .bind(&job.ordered_by)
                    .bind(job.state.as_str())
                    .bind(job.matched)
                    .bind(job.progress.finalized)
                    .bind(job.progress.accepted)
                    .bind(job.progress.duplicates)
                    .bind(job.progress.failed)
                    .bind(job.progress.skipped)
                    .bind(job.progress.last_failure)
                    .bind(job.which.end)
                    .bind(job.created_at)
                    .bind(job.finished_at)
                    .execute(&self.writer)
                    .await
                    .map_err(failed)?;
                Ok(())
            }

            async fn take_job(
                &self,
                process: Uuid,
                now: DateTime<Utc>,
            ) -> Result<Option<Replay>, StoreError> {
                one::<ReplayRow, _>(
                    query_as(replays::TAKE_REPLAY).bind(process).bind(now),
                    &self.writer,
                )
                .await
            }

            async fn count_steps(
                &self,
                replay_id: Uuid,
                process: Uuid,
                steps: &Progress,
            ) -> Result<bool, StoreError> {
                let mut tx = Writing(self.begin().await?);
                let is_own = tx.count_step(replay_id, process, steps).await?;
                Box::new(tx).commit().await?;
                Ok(is_own)
            }

            /// Runs one of the short statements on a job; true if there was such a job.
            async fn change_job(
                &self,
                statement: &'static str,
                (replay_id, process): (Uuid, Option<Uuid>),
                now: Option<DateTime<Utc>>,
            ) -> Result<bool, StoreError> {
                let mut asked = query(statement).bind(replay_id);
                if let Some(process) = process {
                    asked = asked.bind(process);
                }
                if let Some(now) = now {
                    asked = asked.bind(now);
                }
                let changed = asked.execute(&self.writer).await.map_err(failed)?;
                Ok(changed.rows_affected() > 0)
            }
        }
    };
}

pub(super) use impl_replays;
