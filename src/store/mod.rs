//! Where everything is kept: one port, two databases, one behaviour.
//!
//! Each method is one unit of work, named for the act. Not-found is an `Option`. What every
//! implementation must keep: a method either happens whole or not at all; all times come from
//! the caller; a method may run again after a lost answer without a second effect.

mod delivery;
mod erase;
mod failures;
mod history;
mod open;
mod overview;
pub mod postgres;
mod prune;
mod record;
mod recording;
mod redelivery;
mod replays;
mod rows;
mod shared;
mod silence;
mod sql;
pub mod sqlite;
mod take;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use uuid::Uuid;

use crate::finalize::{Bill, Outcome, Prepared, Repriced, Session, Silence, Totals};
use crate::webhook::MessageId;

pub use crate::webhook::Endpoint;
pub use delivery::{
    Attempt, AttemptResult, Cause, Delivery, DeliveryFilter, DeliveryState, DeliveryStory,
    DueEndpoint, EndpointHealth, Next, Owed, Recorded, Slot, Verdict, WORKLOAD_COUNTED, Workload,
};
pub use failures::{
    Beginning, Closed, Ending, Failure, FailureFilter, FailurePlace, FailureState, Refusal,
    ReplayOutcome, Replaying, Tried,
};
pub use history::{Cursor, HistoryFilter, Walked};
pub use open::{DatabaseUrl, OpenError, OpenMode, migrate, open};
pub use overview::{Backlog, FinalizedCall, MOST_LOOKED_AT};
pub use prune::{PrunePosition, Pruned};
pub use record::BY_HAND;
pub use recording::{AwaitedFile, Expired};
pub use redelivery::{
    MOST_PER_SECOND, PER_SECOND, Position, Redelivery, RedeliveryRange, RedeliveryState, Statuses,
};
pub use replays::{OpenFailures, Progress, REPLAYS_PER_SECOND, Replay, ReplayState};
pub use silence::{IntakeState, SilentCall};
pub use transaction::EgressKeys;

/// A store that several tasks share.
pub type SharedStore = Arc<dyn Store>;

/// Why a unit of work did not happen.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Trouble that passes: the database is away, busy, or the answer was lost. Try again.
    #[error("the database is not answering: {0}")]
    Transient(#[source] anyhow::Error),
    /// The database refused this very data. Trying again will not help.
    #[error("the database refused the data: {0}")]
    Rejected(#[source] anyhow::Error),
    /// A defect: a stored value that cannot be read back, a missing migration.
    #[error("{0}")]
    Broken(#[source] anyhow::Error),
}

impl StoreError {
    /// The work was not done in time: less of it might be.
    pub fn is_late(&self) -> bool {
        matches!(self, Self::Transient(error) if error.is::<Late>())
    }
}

/// A unit of work took too long.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {DEADLINE:?}")]
struct Late;

/// The database as intake, courier, API and commands see it.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Asks for the database's time: the proof that it answers.
    async fn now(&self) -> Result<DateTime<Utc>, StoreError>;

    /// The id of this installation, made when the database was.
    async fn installation(&self) -> Result<Uuid, StoreError>;

    // ---- intake ----

    /// Takes a batch of events as [`crate::finalize::plan`] says, in one transaction: sessions,
    /// recordings, messages, deliveries and failures together. `Rejected` means that some event
    /// of the batch carries data that the database refuses.
    async fn take(&self, batch: Batch<'_>) -> Result<Taken, StoreError>;

    /// Joins recordings that came before their session, or at the same moment on another
    /// worker and were not seen. Idempotent. Returns the deliveries that came of it.
    async fn join_recordings(
        &self,
        terms: Terms<'_>,
        which: &Unjoined,
    ) -> Result<Vec<Owed>, StoreError>;

    // ---- recordings ----

    /// Sessions that were finalized until then and whose recording is still open, the oldest
    /// first.
    async fn overdue_recordings(
        &self,
        finalized_by: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<Uuid>, StoreError>;

    /// Files that workers say they stored, were not seen yet and are to be looked for now. Nobody
    /// else is given them until `leased_until`.
    async fn awaited_files(
        &self,
        now: DateTime<Utc>,
        leased_until: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<AwaitedFile>, StoreError>;

    /// When these sessions' files are to be looked for again; give them in the order of their
    /// ids, in which all others lock them.
    async fn look_again(&self, looks: &[(Uuid, DateTime<Utc>)]) -> Result<(), StoreError>;

    /// Takes recordings away that were first heard of until then and still have no session: they
    /// become failures (`unmatched_recording`), unless only `LiveKit`'s webhooks told of them.
    async fn expire_recordings(
        &self,
        first_seen_by: DateTime<Utc>,
        now: DateTime<Utc>,
        limit: u32,
    ) -> Result<Expired, StoreError>;

    // ---- silent calls ----

    /// Calls in progress that have been silent for a while, in the order in which they fell silent,
    /// and which of them may be over; those behind `after`, a time and an id.
    async fn silent_sessions(
        &self,
        silence: Silence,
        after: (DateTime<Utc>, Uuid),
        limit: u32,
    ) -> Result<Vec<SilentCall>, StoreError>;

    /// Forgets closed rooms that were first heard of until then; how many.
    async fn forget_rooms(&self, heard_by: DateTime<Utc>, limit: u32) -> Result<u64, StoreError>;

    /// Keeps how far a process has come, and forgets those that were last seen until then.
    async fn note_intake(
        &self,
        state: &IntakeState,
        seen_by: DateTime<Utc>,
    ) -> Result<(), StoreError>;

    /// How far all processes have come that took events of late.
    async fn intakes(&self) -> Result<Vec<IntakeState>, StoreError>;

    // ---- sessions ----

    /// The session with this id.
    async fn session(&self, session_id: Uuid) -> Result<Option<Session>, StoreError>;

    /// A part of the sessions, the newest first.
    async fn history(
        &self,
        filter: &HistoryFilter,
        limit: u32,
        offset: u64,
    ) -> Result<Vec<Session>, StoreError>;

    /// What all these sessions come to.
    async fn history_totals(&self, filter: &HistoryFilter) -> Result<Totals, StoreError>;

    /// Finalized sessions in the order in which they became readable, from a cursor on. None is
    /// ever left behind: what may still be overtaken by a transaction that began earlier waits for
    /// it. One that gets another revision comes again.
    async fn finalized_after(
        &self,
        filter: &HistoryFilter,
        cursor: Cursor,
        limit: u32,
    ) -> Result<Walked, StoreError>;

    /// When the newest finalized sessions were finalized, of one owner or of all: those of the last
    /// [`MOST_LOOKED_AT`] that were then or later.
    async fn finalized_lately(
        &self,
        owner: Option<i64>,
        since: DateTime<Utc>,
    ) -> Result<Vec<FinalizedCall>, StoreError>;

    /// What sessions cost that were finalized then or later: of the next few sessions in the order
    /// of their ids, from this one on, whichever they are.
    async fn bills(
        &self,
        since: DateTime<Utc>,
        from: Uuid,
        limit: u32,
    ) -> Result<Bills, StoreError>;

    /// Gives sessions another cost, as the next version; which: those that are still in the version
    /// that their bill was read in. Nothing else of them changes, and nobody is told.
    async fn reprice(&self, changes: &[Repriced]) -> Result<Vec<Uuid>, StoreError>;

    /// Erases a session and all that was kept of it but its id, its owner and its digests: from then
    /// on every event for it is a duplicate. Its pending deliveries are cancelled, its failures have
    /// no bytes any more. Returns where its recordings lie that are still to be deleted, also if it
    /// was erased before; `None`: there never was such a session.
    async fn erase(
        &self,
        session_id: Uuid,
        recordings_place: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<Vec<String>>, StoreError>;

    /// Of an erased session's recordings these are still to be deleted.
    async fn keep_files(&self, session_id: Uuid, files: &[String]) -> Result<(), StoreError>;

    // ---- endpoints ----

    /// Keeps a new endpoint.
    async fn add_endpoint(&self, endpoint: &Endpoint) -> Result<(), StoreError>;

    /// Endpoints in the order they were made: one owner's, or all. Deleted ones are not there.
    async fn endpoints(&self, owner: Option<i64>) -> Result<Vec<Endpoint>, StoreError>;

    /// The endpoint with this id.
    async fn endpoint(&self, endpoint_id: Uuid) -> Result<Option<Endpoint>, StoreError>;

    /// Keeps a changed endpoint as the version after the one it was read in. `false`: it is not in
    /// that version any more, or not there; read it again. Whether it is disabled stays as it is.
    async fn change_endpoint(&self, endpoint: &Endpoint) -> Result<bool, StoreError>;

    /// Disables an endpoint, cancels its pending deliveries (`endpoint_disabled`) and tells the
    /// owner's other endpoints. `false`: it is disabled already, or not there.
    async fn disable_endpoint(
        &self,
        endpoint_id: Uuid,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError>;

    /// Enables an endpoint, with nothing held against it. `false`: it is enabled, or not there.
    async fn enable_endpoint(&self, endpoint_id: Uuid) -> Result<bool, StoreError>;

    /// Deletes an endpoint: its secrets are gone, its pending deliveries cancelled
    /// (`endpoint_deleted`), the others kept. `false`: there is no such endpoint.
    async fn delete_endpoint(
        &self,
        endpoint_id: Uuid,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError>;

    /// How endpoints fare that do not simply fare well.
    async fn endpoint_health(&self, now: DateTime<Utc>) -> Result<Vec<EndpointHealth>, StoreError>;

    // ---- deliveries ----

    /// Says that this process is alive until `alive_until`. `false`: its row had run out or is
    /// gone, others may have taken its deliveries; take a new id.
    async fn keep_alive(
        &self,
        process: Uuid,
        now: DateTime<Utc>,
        alive_until: DateTime<Utc>,
    ) -> Result<bool, StoreError>;

    /// Makes this process known; the first `keep_alive`.
    async fn enter(
        &self,
        process: Uuid,
        now: DateTime<Utc>,
        alive_until: DateTime<Utc>,
    ) -> Result<(), StoreError>;

    /// The process is going: gives back what it holds and forgets it.
    async fn leave(&self, process: Uuid) -> Result<(), StoreError>;

    /// Gives back the deliveries of processes that are no longer alive; how many.
    async fn rescue(&self, now: DateTime<Utc>) -> Result<u64, StoreError>;

    /// Endpoints that have unclaimed deliveries due, and may be called.
    async fn due_endpoints(&self, now: DateTime<Utc>) -> Result<Vec<DueEndpoint>, StoreError>;

    /// Claims due deliveries for this process: of each endpoint at most the given number, and no
    /// more than its own limit lets start, first attempts first, then the longest due. After an
    /// error some may be claimed all the same.
    async fn claim(
        &self,
        process: Uuid,
        now: DateTime<Utc>,
        slots: &[Slot],
    ) -> Result<Vec<Owed>, StoreError>;

    /// Gives claimed deliveries back, unattempted.
    async fn release(&self, process: Uuid, deliveries: &[Uuid]) -> Result<(), StoreError>;

    /// Records attempts and what they make of their deliveries; only those that `process` still
    /// holds, and none twice. In the same transaction endpoints are judged by them: paused, and
    /// disabled when they are gone or have only failed for too long.
    async fn record(
        &self,
        process: Uuid,
        results: &[AttemptResult],
        now: DateTime<Utc>,
    ) -> Result<Recorded, StoreError>;

    /// How much there is to do, counted only so far that it may be asked often.
    async fn workload(&self, now: DateTime<Utc>) -> Result<Workload, StoreError>;

    /// When the next unclaimed delivery falls due.
    async fn next_due(&self) -> Result<Option<DateTime<Utc>>, StoreError>;

    /// Cancels what is still pending to a disabled or deleted endpoint, a bounded number at a time;
    /// how many. 0: nothing is left of any.
    async fn cancel_undeliverable(&self, now: DateTime<Utc>) -> Result<u64, StoreError>;

    /// Deliveries, the newest first.
    async fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<Delivery>, StoreError>;

    /// Deliveries of a session's messages, oldest first.
    async fn deliveries_of(&self, session_id: Uuid) -> Result<Vec<Delivery>, StoreError>;

    /// Deliveries of a message, oldest first.
    async fn deliveries_of_message(
        &self,
        message_id: MessageId,
    ) -> Result<Vec<Delivery>, StoreError>;

    /// The delivery with this id, its bytes and its attempts.
    async fn delivery(&self, delivery_id: Uuid) -> Result<Option<DeliveryStory>, StoreError>;

    /// What is still owed to endpoints, and what was given up: one owner's, or all.
    async fn backlog(&self, owner: Option<i64>) -> Result<Backlog, StoreError>;

    /// How many deliveries stand in each state: `(state, count)`.
    async fn delivery_counts(&self) -> Result<Vec<(DeliveryState, i64)>, StoreError>;

    // ---- redelivery ----

    /// Owes deliveries anew, from the beginning of the schedule; what is pending falls due at
    /// once. Which: all that exist, that nobody is sending and whose endpoint is enabled.
    async fn redeliver(
        &self,
        deliveries: &[Uuid],
        now: DateTime<Utc>,
    ) -> Result<Vec<Uuid>, StoreError>;

    /// How many deliveries a range has that can go out again; `None`: too many to count while
    /// somebody waits.
    async fn count_range(&self, range: &RedeliveryRange) -> Result<Option<i64>, StoreError>;

    /// Keeps a new redelivery. `false`: another one to the same endpoint runs.
    async fn add_redelivery(&self, job: &Redelivery) -> Result<bool, StoreError>;

    /// Redeliveries to an endpoint, or all, the newest first, at most 100.
    async fn redeliveries(&self, endpoint_id: Option<Uuid>) -> Result<Vec<Redelivery>, StoreError>;

    /// The redelivery with this id.
    async fn redelivery(&self, redelivery_id: Uuid) -> Result<Option<Redelivery>, StoreError>;

    /// Stops a redelivery: what is on its way stays so. `false`: it has ended, or is not there.
    async fn cancel_redelivery(
        &self,
        redelivery_id: Uuid,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError>;

    /// Does one step of the redelivery that is next; it, as it is then. `None`: none is due. One
    /// whose step fails is left for later, so that others go on.
    /// Bodies that were never made name the session's address below `public_url`.
    async fn advance_redelivery(
        &self,
        public_url: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<Redelivery>, StoreError>;

    // ---- failures ----

    /// Failures, newest first.
    async fn failures(&self, filter: &FailureFilter) -> Result<Vec<Failure>, StoreError>;

    /// The failure with this id, with its raw bytes.
    async fn failure(&self, failure_id: Uuid) -> Result<Option<(Failure, Bytes)>, StoreError>;

    /// Says that an open failure does not matter; the refusal, if it is not open or is being
    /// replayed.
    async fn discard_failure(
        &self,
        failure_id: Uuid,
        by: &str,
        now: DateTime<Utc>,
    ) -> Result<Result<(), Refusal>, StoreError>;

    /// Begins to replay an open failure, with a marker that is committed before the attempt: nobody
    /// else can begin as long as the process lives, and if it dies over it, only who names this
    /// failure.
    async fn begin_replay(
        &self,
        beginning: Beginning,
    ) -> Result<Result<(Failure, Bytes), Refusal>, StoreError>;

    /// Takes the event of a replay as [`Store::take`] does, and in the same transaction writes what
    /// became of the failure and ends the marker. `None`: the marker is not this process's any more,
    /// or the job ended, and nothing happened.
    async fn end_replay(&self, ending: Ending<'_>) -> Result<Option<Taken>, StoreError>;

    /// Ends the marker of an attempt that nothing came of.
    async fn abandon_replay(&self, failure_id: Uuid, process: Uuid) -> Result<(), StoreError>;

    /// The process replays no more: ends its markers, gives its jobs back, and forgets it.
    async fn leave_replays(&self, process: Uuid) -> Result<(), StoreError>;

    /// What would become of an event. Changes nothing.
    async fn try_out(&self, terms: Terms<'_>, event: &Prepared) -> Result<Tried, StoreError>;

    /// The next failures that are open, behind the given one.
    async fn open_failures(
        &self,
        which: &OpenFailures,
        after: Uuid,
        limit: u32,
    ) -> Result<Vec<Uuid>, StoreError>;

    /// How many failures are open; `None`: too many to count while somebody waits.
    async fn count_open_failures(&self, which: &OpenFailures) -> Result<Option<i64>, StoreError>;

    /// Keeps a new job.
    async fn add_replay(&self, job: &Replay) -> Result<(), StoreError>;

    /// Jobs, the newest first, at most 100.
    async fn replays(&self) -> Result<Vec<Replay>, StoreError>;

    /// The job with this id.
    async fn replay(&self, replay_id: Uuid) -> Result<Option<Replay>, StoreError>;

    /// Stops a job; what was replayed stays so. `false`: it has ended, or is not there.
    async fn cancel_replay(&self, replay_id: Uuid, now: DateTime<Utc>) -> Result<bool, StoreError>;

    /// The oldest running job that no process does, which from now on is this one's.
    async fn take_replay(
        &self,
        process: Uuid,
        now: DateTime<Utc>,
    ) -> Result<Option<Replay>, StoreError>;

    /// Counts steps of a job that had no effect of their own. `false`: the job has ended, or is not
    /// this process's any more.
    async fn count_replay(
        &self,
        replay_id: Uuid,
        process: Uuid,
        steps: &Progress,
    ) -> Result<bool, StoreError>;

    /// Every failure of the job was tried.
    async fn finish_replay(
        &self,
        replay_id: Uuid,
        process: Uuid,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError>;

    /// Gives a job back for others, or for later.
    async fn give_back_replay(&self, replay_id: Uuid, process: Uuid) -> Result<(), StoreError>;

    /// Drops the bytes of failures that were last seen until then, a bounded number; how many.
    async fn expire_failures(
        &self,
        last_seen_by: DateTime<Utc>,
        now: DateTime<Utc>,
        limit: u32,
    ) -> Result<u64, StoreError>;

    // ---- retention ----

    /// Forgets, of the next few messages behind `after`, those that were told before then and whose
    /// deliveries had all ended by then: the deliveries, their attempts, the messages' bytes. The
    /// messages' ids stay, so that nothing is told twice. Says what it did, and where to go on unless
    /// there are no more. A dry run says it and changes nothing.
    async fn prune(
        &self,
        before: DateTime<Utc>,
        after: &PrunePosition,
        limit: u32,
        is_dry_run: bool,
    ) -> Result<(Pruned, Option<PrunePosition>), StoreError>;

    // ---- keys ----

    /// Keeps a new API key.
    async fn add_api_key(&self, key: &ApiKey) -> Result<(), StoreError>;

    /// The key with this hash.
    async fn api_key(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>, StoreError>;

    /// API keys in the order they were made: one user's, or all.
    async fn api_keys(&self, user: Option<i64>) -> Result<Vec<ApiKey>, StoreError>;

    /// Changes a key; it, as it is then. With a user only an ordinary key of theirs. `None`: there
    /// is no such key.
    async fn change_api_key(
        &self,
        key_id: Uuid,
        user: Option<i64>,
        change: &ApiKeyChange,
    ) -> Result<Option<ApiKey>, StoreError>;

    /// Deletes a key; it, as it was. With a user only an ordinary key of theirs. `None`: there is
    /// no such key.
    async fn delete_api_key(
        &self,
        key_id: Uuid,
        user: Option<i64>,
    ) -> Result<Option<ApiKey>, StoreError>;

    /// Keeps when keys were last used; an earlier time than the one that is there changes nothing.
    async fn note_api_key_uses(&self, uses: &[(Uuid, DateTime<Utc>)]) -> Result<(), StoreError>;
}

/// What a transaction that writes sessions must know of the world.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// The present.
    pub now: DateTime<Utc>,
    /// Payloads name the session's address below this URL (no slash at the end).
    pub public_url: &'a str,
    /// The first `--recordings` place: `s3://bucket[/prefix]` or `file:///folder`.
    pub recordings_place: &'a str,
    /// Who takes the deliveries after the commit.
    pub desk: &'a dyn HandOff,
}

/// Who takes new deliveries after the commit: this process's courier, or nobody.
pub trait HandOff: Send + Sync {
    /// The process that will hold the delivery, if this process has room for one more delivery
    /// to this endpoint of this owner. Every `Some` is followed by the delivery itself, or by
    /// `cancel`.
    fn reserve(&self, endpoint_id: Uuid, owner: Option<i64>) -> Option<Uuid>;

    /// The transaction did not commit: the room is free again.
    fn cancel(&self, endpoint_id: Uuid);

    /// Whether a transaction committed is not known, so deliveries may be held under this id
    /// that nobody knows of: take a new id, and let others rescue them.
    fn disown(&self, process_id: Uuid);

    /// Takes deliveries that nobody has committed: a defect that the fault suite must find.
    #[cfg(feature = "crash-points")]
    fn accept_early(&self, _owed: Vec<Owed>) {}
}

/// Events to take together.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// The world.
    pub terms: Terms<'a>,
    /// The events, in order.
    pub events: &'a [Prepared],
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Taken {
    /// One per event, in the batch's order.
    pub outcomes: Vec<Outcome>,
    /// Deliveries that this process reserved room for, to be sent now.
    pub owed: Vec<Owed>,
    /// What another worker may have written at the same moment, unseen by this transaction:
    /// to be given to [`Store::join_recordings`] after the commit and before any answer. If that fails, the
    /// sweep over everything does it.
    pub unjoined: Unjoined,
}

/// Recordings and sessions that may belong together and were not seen together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unjoined {
    /// Recordings without a session, and what sessions that are new, or say something new about their
    /// recording, know of theirs.
    pub keys: EgressKeys,
    /// Every recording without a session, whichever it is.
    pub is_everything: bool,
}

impl Unjoined {
    /// There is nothing to look at again.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.is_everything
    }
}

/// A part of what sessions cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bills {
    /// What those cost that were asked for.
    pub bills: Vec<Bill>,
    /// How many sessions were looked at.
    pub looked_at: u64,
    /// Where to go on; `None` at the end.
    pub next: Option<Uuid>,
}

/// A key to the API.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiKey {
    /// Its id.
    pub key_id: Uuid,
    /// SHA-256 of the key's text.
    pub hash: [u8; 32],
    /// The first characters of the key, to tell keys apart by.
    pub preview: String,
    /// What its owner calls it.
    pub name: String,
    /// Whose sessions it may read.
    pub user: i64,
    /// It may read everyone's.
    pub is_staff: bool,
    /// It works.
    pub is_active: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last used, to the minute or so.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// What is to be different about a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApiKeyChange {
    /// What it is called.
    pub name: Option<String>,
    /// Whether it works.
    pub is_active: Option<bool>,
}

/// A migration that comes with the program: version, name, statements.
type MigrationFile = (i64, &'static str, &'static str);

/// Runs migrations. (sqlx's macro would read the folder, and build both drivers twice.)
fn migrator(files: &[MigrationFile]) -> Migrator {
    let migrations = files.iter().map(|(version, name, statements)| {
        let statements = SqlStr::from_static(statements);
        Migration::new(*version, (*name).into(), MigrationType::Simple, statements, false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// How long a unit of work may take before its caller is told that the database is away.
const DEADLINE: Duration = Duration::from_secs(10);

/// Waits for a unit of work, but not for ever.
async fn within<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Transient(Late.into())),
    }
}

/// What an error means that did not come from the database itself.
fn failed_without_code(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => StoreError::Transient(error.into()),
        sqlx::Error::Encode(_) => StoreError::Rejected(error.into()),
        _ => StoreError::Broken(error.into()),
    }
}
