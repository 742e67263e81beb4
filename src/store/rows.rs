//! Rows as both databases give them, and what they mean.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};
use uuid::Uuid;

use super::prune::OldDelivery;
use super::redelivery::ToldMessage;
use super::transaction::Health;
use super::{
    ApiKey, Attempt, AwaitedFile, Backlog, Bills, Closed, Cursor, Delivery, DeliveryState,
    DueEndpoint, Endpoint, EndpointHealth, Failure, FailureState, FinalizedCall, IntakeState,
    MOST_LOOKED_AT, OpenFailures, Owed, Position, Progress, Redelivery, RedeliveryRange,
    RedeliveryState, Replay, ReplayOutcome, ReplayState, Replaying, SilentCall, Statuses,
    StoreError, Walked,
};
use crate::event::{Digest, Egress, FailureCode, Rejection, TraceParent};
use crate::finalize::{
    Bill, Cost, FinishedRoom, JoinedBy, JoinedEgress, RecordingState, RecordingStatus, Session,
    Totals,
};
use crate::webhook::{EventType, Failing, MessageId, PayloadKind};

/// A stored value that this release cannot read: a defect, or a newer release's writing.
pub(super) fn unreadable(what: &str, value: &str) -> StoreError {
    StoreError::Broken(anyhow::anyhow!("the database holds an unreadable {what}: {value:?}"))
}

/// Declares a row and how it is read from a database, each field from the column of its name (or
/// the one named after `=`). sqlx's derive would do it, at the price of building both drivers
/// twice.
macro_rules! row {
    ($row:ident { $($field:ident: $kind:ty $(= $column:literal)?),+ $(,)? }) => {
        pub(super) struct $row {
            $($field: $kind,)+
        }

        impl<'r, R: Row> FromRow<'r, R> for $row
        where
            &'static str: ColumnIndex<R>,
            $($kind: Decode<'r, R::Database> + Type<R::Database>,)+
        {
            fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
                Ok(Self { $($field: row.try_get(row!(@column $field $($column)?))?,)+ })
            }
        }
    };
    (@column $field:ident $column:literal) => { $column };
    (@column $field:ident) => { stringify!($field) };
}

row!(SessionRow {
    session_id: Uuid,
    id: i64,
    tenant_id: String,
    character_slug: String,
    character_owner: i64,
    user: Option<i64>,
    room_id: Option<String>,
    room_name: Option<String>,
    origin_url: Option<String>,
    metadata: String,
    started_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    close_reason: Option<String>,
    duration_ms: i64,
    turn_count: i32,
    interruption_count: i32,
    llm_input_tokens: i64,
    llm_output_tokens: i64,
    llm_model: Option<String>,
    llm_provider: Option<String>,
    stt_audio_ms: i64,
    stt_provider: Option<String>,
    tts_characters: i64,
    tts_provider: Option<String>,
    cost_micros: i64,
    cost_breakdown: String,
    usage: String,
    transcript: String,
    recording_expected: bool,
    recording_egress_id: Option<String>,
    recording_worker_url: Option<String>,
    is_recording_found: bool,
    is_recording_given_up: bool,
    recording_status: String,
    recording_url: Option<String>,
    recording_offset_ms: Option<i64>,
    finalized_at: Option<DateTime<Utc>>,
    revision: i32,
    version: i32,
    digest: Vec<u8>,
    superseded: Vec<u8>,
    heard_at: Option<DateTime<Utc>>,
    checkpoint_sequence: Option<i64>,
});

impl TryFrom<SessionRow> for Session {
    type Error = StoreError;

    fn try_from(row: SessionRow) -> Result<Self, StoreError> {
        Ok(Self {
            session_id: row.session_id,
            id: row.id,
            tenant_id: row.tenant_id,
            character_slug: row.character_slug,
            character_owner: row.character_owner,
            user: row.user,
            room_id: row.room_id,
            room_name: row.room_name,
            origin_url: row.origin_url,
            metadata: row.metadata,
            started_at: row.started_at,
            ended_at: row.ended_at,
            close_reason: row.close_reason,
            duration_ms: row.duration_ms,
            turn_count: row.turn_count,
            interruption_count: row.interruption_count,
            llm_input_tokens: row.llm_input_tokens,
            llm_output_tokens: row.llm_output_tokens,
            llm_model: row.llm_model,
            llm_provider: row.llm_provider,
            stt_audio_ms: row.stt_audio_ms,
            stt_provider: row.stt_provider,
            tts_characters: row.tts_characters,
            tts_provider: row.tts_provider,
            cost_micros: row.cost_micros,
            cost_breakdown: row.cost_breakdown,
            usage: row.usage,
            transcript: row.transcript,
            recording_expected: row.recording_expected,
            recording_egress_id: row.recording_egress_id,
            recording_worker_url: row.recording_worker_url,
            is_recording_found: row.is_recording_found,
            is_recording_given_up: row.is_recording_given_up,
            recording: RecordingState {
                status: recording_status(&row.recording_status)?,
                url: row.recording_url,
                offset_ms: row.recording_offset_ms,
            },
            finalized_at: row.finalized_at,
            revision: row.revision,
            version: row.version,
            digest: digest(&row.digest)?,
            superseded: row.superseded.chunks(32).map(digest).collect::<Result<_, _>>()?,
            heard_at: row.heard_at,
            checkpoint_sequence: row.checkpoint_sequence,
        })
    }
}

/// A finalized session with its place in the order in which sessions became readable.
pub(super) struct FinalizedRow {
    session: SessionRow,
    position: String,
}

impl<'r, R: Row> FromRow<'r, R> for FinalizedRow
where
    SessionRow: FromRow<'r, R>,
    &'static str: ColumnIndex<R>,
    String: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Self { session: SessionRow::from_row(row)?, position: row.try_get("position")? })
    }
}

/// The sessions that were found, and how far the walk has come with them.
pub(super) fn walked(rows: Vec<FinalizedRow>, from: Cursor) -> Result<Walked, StoreError> {
    let mut walked = Walked { sessions: Vec::with_capacity(rows.len()), cursor: from };
    for row in rows {
        walked.cursor.position = position(&row.position)?;
        walked.cursor.id = row.session.id;
        walked.sessions.push(row.session.try_into()?);
    }
    Ok(walked)
}

/// A place in that order.
pub(super) fn position(text: &str) -> Result<u64, StoreError> {
    text.parse().map_err(|_| unreadable("place in the order of finalization", text))
}

row!(TotalsRow {
    sessions: i64,
    llm_input_tokens: i64,
    llm_output_tokens: i64,
    stt_audio_ms: i64,
    tts_characters: i64,
    cost_micros: i64,
});

impl From<TotalsRow> for Totals {
    fn from(row: TotalsRow) -> Self {
        Self {
            sessions: row.sessions,
            llm_input_tokens: row.llm_input_tokens,
            llm_output_tokens: row.llm_output_tokens,
            stt_audio_ms: row.stt_audio_ms,
            tts_characters: row.tts_characters,
            cost_micros: row.cost_micros,
        }
    }
}

row!(BillRow {
    session_id: Uuid,
    version: i32,
    cost_micros: i64,
    cost_breakdown: Option<String>,
    usage: Option<String>,
});

/// What those cost that are wanted, of at most so many sessions, and which is to be the next.
pub(super) fn bills(rows: Vec<BillRow>, limit: u32) -> Bills {
    let looked_at = rows.len() as u64;
    let last = rows.last().filter(|_| looked_at >= u64::from(limit));
    let next = last.and_then(|last| last.session_id.as_u128().checked_add(1)).map(Uuid::from_u128);
    let bills = rows.into_iter().filter_map(BillRow::bill).collect();
    Bills { bills, looked_at, next }
}

impl BillRow {
    /// None for a session that was not asked for.
    fn bill(self) -> Option<Bill> {
        let (usage, breakdown) = self.usage.zip(self.cost_breakdown)?;
        let cost = Cost { micros: self.cost_micros, breakdown };
        Some(Bill { session_id: self.session_id, version: self.version, usage, cost })
    }
}

fn digest(bytes: &[u8]) -> Result<Digest, StoreError> {
    bytes.try_into().map_err(|_| unreadable("digest", &hex::encode(bytes)))
}

fn recording_status(text: &str) -> Result<RecordingStatus, StoreError> {
    RecordingStatus::parse(text).ok_or_else(|| unreadable("recording status", text))
}

fn event_type(text: &str) -> Result<EventType, StoreError> {
    EventType::parse(text).ok_or_else(|| unreadable("message type", text))
}

fn message_id(bytes: &[u8]) -> Result<MessageId, StoreError> {
    let id = bytes.try_into().map_err(|_| unreadable("message id", &hex::encode(bytes)))?;
    Ok(MessageId(id))
}

fn count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

row!(EgressRow {
    report: String,
    named_session_id: Option<Uuid>,
    session_id: Option<Uuid>,
    joined_by: Option<i16>,
    version: i32,
});

impl TryFrom<EgressRow> for JoinedEgress {
    type Error = StoreError;

    fn try_from(row: EgressRow) -> Result<Self, StoreError> {
        let egress: Egress = serde_json::from_str(&row.report)
            .map_err(|_| unreadable("recording report", &row.report))?;
        Ok(Self {
            egress,
            named_session_id: row.named_session_id,
            session_id: row.session_id,
            joined_by: row.joined_by.and_then(JoinedBy::from_number),
            version: row.version,
        })
    }
}

/// A checkpoint is the transcript of a call: what cannot be read is not repeated.
pub(super) fn checkpoint(json: &str) -> Result<Session, StoreError> {
    serde_json::from_str(json).map_err(|_| unreadable("checkpoint", "(a transcript)"))
}

/// A checkpoint as it is kept.
pub(super) fn checkpoint_json(checkpoint: &Session) -> String {
    serde_json::to_string(checkpoint).expect("a session is JSON")
}

row!(FinalizedCallRow {
    ended_at: Option<DateTime<Utc>>,
    finalized_at: DateTime<Utc>,
});

impl TryFrom<FinalizedCallRow> for FinalizedCall {
    type Error = StoreError;

    fn try_from(row: FinalizedCallRow) -> Result<Self, StoreError> {
        let FinalizedCallRow { ended_at, finalized_at } = row;
        Ok(Self { ended_at, finalized_at })
    }
}

row!(PendingRow {
    count: i64,
    oldest: Option<DateTime<Utc>>,
});

row!(GivenUpRow { count: i64, exhausted: i64 });

/// Counts are those of what was looked at: as many as that are too many.
pub(super) fn backlog(pending: &PendingRow, given_up: &GivenUpRow) -> Backlog {
    let known = |count: i64, of: i64| (of <= i64::from(MOST_LOOKED_AT)).then_some(count);
    Backlog {
        pending: known(pending.count, pending.count),
        oldest_pending_at: pending.oldest,
        exhausted: known(given_up.exhausted, given_up.count),
    }
}

row!(SilentRow {
    session_id: Uuid,
    heard_at: DateTime<Utc>,
    may_be_over: bool,
});

impl TryFrom<SilentRow> for SilentCall {
    type Error = StoreError;

    fn try_from(row: SilentRow) -> Result<Self, StoreError> {
        let SilentRow { session_id, heard_at, may_be_over } = row;
        Ok(Self { session_id, heard_at, may_be_over })
    }
}

row!(RoomRow {
    digest: Vec<u8>,
    session_id: Option<Uuid>,
    room_id: Option<String>,
    room_name: Option<String>,
    finished_at: DateTime<Utc>,
    heard_at: DateTime<Utc>,
});

impl TryFrom<RoomRow> for FinishedRoom {
    type Error = StoreError;

    fn try_from(row: RoomRow) -> Result<Self, StoreError> {
        Ok(Self {
            digest: digest(&row.digest)?,
            session_id: row.session_id,
            room_id: row.room_id,
            room_name: row.room_name,
            finished_at: row.finished_at,
            heard_at: row.heard_at,
        })
    }
}

row!(IntakeRow {
    process_id: Uuid,
    is_consuming: bool,
    current_since: Option<DateTime<Utc>>,
    seen_at: DateTime<Utc>,
});

impl TryFrom<IntakeRow> for IntakeState {
    type Error = StoreError;

    fn try_from(row: IntakeRow) -> Result<Self, StoreError> {
        let IntakeRow { process_id, is_consuming, current_since, seen_at } = row;
        Ok(Self { process_id, is_consuming, current_since, seen_at })
    }
}

row!(AwaitedFileRow {
    session_id: Uuid,
    recording_worker_url: String,
    finalized_at: DateTime<Utc>,
});

impl TryFrom<AwaitedFileRow> for AwaitedFile {
    type Error = StoreError;

    fn try_from(row: AwaitedFileRow) -> Result<Self, StoreError> {
        Ok(Self {
            session_id: row.session_id,
            url: row.recording_worker_url,
            finalized_at: row.finalized_at,
        })
    }
}

row!(EndpointRow {
    endpoint_id: Uuid,
    owner: Option<i64>,
    tenant_id: Option<String>,
    character_slug: Option<String>,
    event_types: String,
    payload: String,
    url: String,
    sealed_secret: Vec<u8>,
    sealed_headers: Option<Vec<u8>>,
    timeout_seconds: i32,
    rate_limit_per_minute: Option<i32>,
    disabled_at: Option<DateTime<Utc>>,
    disabled_because: Option<String>,
    created_at: DateTime<Utc>,
    version: i32,
});

impl TryFrom<EndpointRow> for Endpoint {
    type Error = StoreError;

    fn try_from(row: EndpointRow) -> Result<Self, StoreError> {
        let names = row.event_types.split(',').filter(|name| !name.is_empty());
        Ok(Self {
            endpoint_id: row.endpoint_id,
            owner: row.owner,
            tenant_id: row.tenant_id,
            character_slug: row.character_slug,
            event_types: names.map(event_type).collect::<Result<_, _>>()?,
            payload: PayloadKind::parse(&row.payload)
                .ok_or_else(|| unreadable("payload kind", &row.payload))?,
            url: row.url,
            sealed_secret: row.sealed_secret,
            sealed_headers: row.sealed_headers,
            timeout_seconds: count(row.timeout_seconds),
            rate_limit_per_minute: row.rate_limit_per_minute.map(count),
            disabled: row.disabled_at.map(|at| (at, row.disabled_because.unwrap_or_default())),
            created_at: row.created_at,
            version: row.version,
        })
    }
}

/// An endpoint's event types as one column.
pub(super) fn event_type_list(types: &[EventType]) -> String {
    types.iter().map(|event_type| event_type.as_str()).collect::<Vec<_>>().join(",")
}

row!(OwedRow {
    delivery_id: Uuid,
    process_id: Uuid,
    message_id: Vec<u8>,
    endpoint_id: Uuid,
    owner: Option<i64>,
    event_type: String = "type",
    body: Option<Vec<u8>>,
    attempts: i32,
    redelivered_after: Option<i32>,
    told_at: DateTime<Utc>,
    traceparent: Option<String>,
});

impl OwedRow {
    pub(super) fn endpoint_id(&self) -> Uuid {
        self.endpoint_id
    }
}

impl TryFrom<OwedRow> for Owed {
    type Error = StoreError;

    fn try_from(row: OwedRow) -> Result<Self, StoreError> {
        Ok(Self {
            delivery_id: row.delivery_id,
            process_id: row.process_id,
            message_id: message_id(&row.message_id)?,
            endpoint_id: row.endpoint_id,
            owner: row.owner,
            event_type: event_type(&row.event_type)?,
            body: Bytes::from(row.body.unwrap_or_default()),
            attempts: count(row.attempts),
            redelivered_after: row.redelivered_after.map(count),
            told_at: row.told_at,
            trace: row.traceparent.as_deref().and_then(TraceParent::parse),
        })
    }
}

row!(DeliveryRow {
    delivery_id: Uuid,
    message_id: Vec<u8>,
    event_type: String = "type",
    session_id: Option<Uuid>,
    endpoint_id: Uuid,
    state: String,
    cause: Option<String>,
    attempts: i32,
    redelivered_after: Option<i32>,
    next_attempt_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
});

impl TryFrom<DeliveryRow> for Delivery {
    type Error = StoreError;

    fn try_from(row: DeliveryRow) -> Result<Self, StoreError> {
        Ok(Self {
            delivery_id: row.delivery_id,
            message_id: message_id(&row.message_id)?,
            event_type: event_type(&row.event_type)?,
            session_id: row.session_id,
            endpoint_id: row.endpoint_id,
            state: delivery_state(&row.state)?,
            cause: row.cause,
            attempts: count(row.attempts),
            redelivered_after: row.redelivered_after.map(count),
            next_attempt_at: row.next_attempt_at,
            created_at: row.created_at,
            finished_at: row.finished_at,
        })
    }
}

/// A delivery with its bytes.
pub(super) struct DeliveryStoryRow {
    pub(super) delivery: DeliveryRow,
    pub(super) body: Option<Vec<u8>>,
}

impl<'r, R: Row> FromRow<'r, R> for DeliveryStoryRow
where
    DeliveryRow: FromRow<'r, R>,
    &'static str: ColumnIndex<R>,
    Option<Vec<u8>>: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Self { delivery: DeliveryRow::from_row(row)?, body: row.try_get("body")? })
    }
}

/// The state with this name.
pub(super) fn delivery_state(text: &str) -> Result<DeliveryState, StoreError> {
    DeliveryState::parse(text).ok_or_else(|| unreadable("delivery state", text))
}

row!(AttemptRow {
    number: i32,
    started_at: DateTime<Utc>,
    duration_us: i64,
    status: Option<i32>,
    error: Option<String>,
    response_head: Option<String>,
    response_body: Option<Vec<u8>>,
    address: Option<String>,
    is_connection_reused: bool,
});

impl TryFrom<AttemptRow> for Attempt {
    type Error = StoreError;

    fn try_from(row: AttemptRow) -> Result<Self, StoreError> {
        Ok(Self {
            number: count(row.number),
            started_at: row.started_at,
            duration_us: row.duration_us,
            status: row.status.and_then(|status| u16::try_from(status).ok()),
            error: row.error,
            response_head: row.response_head,
            response_body: Bytes::from(row.response_body.unwrap_or_default()),
            address: row.address,
            is_connection_reused: row.is_connection_reused,
        })
    }
}

row!(DueEndpointRow {
    endpoint_id: Uuid,
    owner: Option<i64>,
    rate_limit_per_minute: Option<i32>,
});

impl TryFrom<DueEndpointRow> for DueEndpoint {
    type Error = StoreError;

    fn try_from(row: DueEndpointRow) -> Result<Self, StoreError> {
        let rate_limit_per_minute = row.rate_limit_per_minute.map(count);
        Ok(Self { endpoint_id: row.endpoint_id, owner: row.owner, rate_limit_per_minute })
    }
}

row!(HealthRow {
    endpoint_id: Uuid,
    failing_since: Option<DateTime<Utc>>,
    last_failure_at: Option<DateTime<Utc>>,
    failures: i32,
    failure_days: i32,
    paused_until: Option<DateTime<Utc>>,
    next_slot_at: Option<DateTime<Utc>>,
});

impl From<&HealthRow> for Health {
    fn from(row: &HealthRow) -> Self {
        let failing = row.failing_since.zip(row.last_failure_at).map(|(since, last_at)| Failing {
            since,
            last_at,
            failures: count(row.failures),
            days: count(row.failure_days),
        });
        Self { failing, paused_until: row.paused_until, next_slot_at: row.next_slot_at }
    }
}

impl TryFrom<HealthRow> for EndpointHealth {
    type Error = StoreError;

    fn try_from(row: HealthRow) -> Result<Self, StoreError> {
        let Health { failing, paused_until, .. } = Health::from(&row);
        Ok(Self { endpoint_id: row.endpoint_id, failing, paused_until })
    }
}

row!(RedeliveryRow {
    redelivery_id: Uuid,
    endpoint_id: Uuid,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    statuses: String,
    per_second: i32,
    state: String,
    matched: Option<i64>,
    redelivered: i64,
    skipped: i64,
    last_delivery: Uuid,
    last_message_at: DateTime<Utc>,
    last_message: Vec<u8>,
    next_step_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
});

impl TryFrom<RedeliveryRow> for Redelivery {
    type Error = StoreError;

    fn try_from(row: RedeliveryRow) -> Result<Self, StoreError> {
        let statuses = Statuses::parse(row.statuses.split(','))
            .map_err(|_| unreadable("list of statuses", &row.statuses))?;
        Ok(Self {
            redelivery_id: row.redelivery_id,
            range: RedeliveryRange {
                endpoint_id: row.endpoint_id,
                since: row.since,
                until: row.until,
                statuses,
            },
            per_second: count(row.per_second),
            state: RedeliveryState::parse(&row.state)
                .ok_or_else(|| unreadable("state of a redelivery", &row.state))?,
            matched: row.matched,
            redelivered: row.redelivered,
            skipped: row.skipped,
            position: Position {
                delivery: row.last_delivery,
                message: (row.last_message_at, row.last_message),
            },
            next_step_at: row.next_step_at,
            created_at: row.created_at,
            finished_at: row.finished_at,
        })
    }
}

row!(OldDeliveryRow { delivery_id: Uuid, message_row: Uuid, is_over: bool });

impl TryFrom<OldDeliveryRow> for OldDelivery {
    type Error = StoreError;

    fn try_from(row: OldDeliveryRow) -> Result<Self, StoreError> {
        let OldDeliveryRow { delivery_id, message_row, is_over } = row;
        Ok(Self { delivery_id, message_row, is_over })
    }
}

row!(ToldMessageRow {
    row_id: Uuid,
    message_id: Vec<u8>,
    event_type: String = "type",
    session_id: Option<Uuid>,
    egress_id: Option<String>,
    created_at: DateTime<Utc>,
    is_owed: bool,
    has_body: bool,
    character_owner: Option<i64>,
    tenant_id: Option<String>,
    character_slug: Option<String>,
});

impl TryFrom<ToldMessageRow> for ToldMessage {
    type Error = StoreError;

    fn try_from(row: ToldMessageRow) -> Result<Self, StoreError> {
        let about = row.character_owner.zip(row.tenant_id).zip(row.character_slug);
        Ok(Self {
            row_id: row.row_id,
            message_id: message_id(&row.message_id)?,
            event_type: event_type(&row.event_type)?,
            session_id: row.session_id,
            egress_id: row.egress_id,
            created_at: row.created_at,
            is_owed: row.is_owed,
            has_body: row.has_body,
            about: about.map(|((owner, tenant), character)| (owner, tenant, character)),
        })
    }
}

row!(FailureRow {
    failure_id: Uuid,
    code: String,
    pointer: Option<String>,
    message: String,
    session_id: Option<Uuid>,
    event_id: Option<String>,
    event_type: Option<String>,
    source: String,
    headers: Option<String>,
    tenant_id: Option<String>,
    character_slug: Option<String>,
    size_bytes: i64,
    seen: i32,
    first_seen_at: DateTime<Utc>,
    last_seen_at: DateTime<Utc>,
    state: String,
    closed_at: Option<DateTime<Utc>>,
    closed_by: Option<String>,
    outcome: Option<String>,
    is_edited: bool,
    replays: i32,
    replayed_at: Option<DateTime<Utc>>,
    raw_expired_at: Option<DateTime<Utc>>,
    replaying_process: Option<Uuid>,
    replaying_since: Option<DateTime<Utc>>,
});

/// A failure with its raw bytes.
pub(super) struct RawFailureRow {
    pub(super) failure: FailureRow,
    pub(super) raw: Vec<u8>,
}

impl<'r, R: Row> FromRow<'r, R> for RawFailureRow
where
    FailureRow: FromRow<'r, R>,
    &'static str: ColumnIndex<R>,
    Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Self { failure: FailureRow::from_row(row)?, raw: row.try_get("raw")? })
    }
}

impl TryFrom<FailureRow> for Failure {
    type Error = StoreError;

    fn try_from(row: FailureRow) -> Result<Self, StoreError> {
        let outcome = row.outcome.as_deref().map(|name| {
            ReplayOutcome::parse(name).ok_or_else(|| unreadable("outcome of a replay", name))
        });
        let (outcome, is_edited) = (outcome.transpose()?, row.is_edited);
        let closed = row.closed_at.zip(row.closed_by);
        let replaying = row.replaying_process.zip(row.replaying_since);
        Ok(Self {
            failure_id: row.failure_id,
            rejection: Rejection {
                code: FailureCode::parse(&row.code)
                    .ok_or_else(|| unreadable("failure code", &row.code))?,
                pointer: row.pointer,
                message: row.message,
                session_id: row.session_id,
                event_id: row.event_id,
                event_type: row.event_type,
            },
            source: row.source,
            headers: row.headers,
            tenant_id: row.tenant_id,
            character_slug: row.character_slug,
            size_bytes: row.size_bytes,
            seen: row.seen,
            first_seen_at: row.first_seen_at,
            last_seen_at: row.last_seen_at,
            state: FailureState::parse(&row.state)
                .ok_or_else(|| unreadable("state of a failure", &row.state))?,
            closed: closed.map(|(at, by)| Closed { at, by, outcome, is_edited }),
            replays: row.replays,
            replayed_at: row.replayed_at,
            raw_expired_at: row.raw_expired_at,
            replaying: replaying.map(|(process, since)| Replaying { process, since }),
        })
    }
}

impl RawFailureRow {
    pub(super) fn read(self) -> Result<(Failure, Bytes), StoreError> {
        Ok((self.failure.try_into()?, Bytes::from(self.raw)))
    }
}

row!(ReplayRow {
    replay_id: Uuid,
    code: Option<String>,
    session_id: Option<Uuid>,
    character_slug: Option<String>,
    tenant_id: Option<String>,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    is_dry_run: bool,
    is_superseding: bool,
    per_second: i32,
    ordered_by: String,
    state: String,
    matched: Option<i64>,
    finalized: i64,
    accepted: i64,
    duplicates: i64,
    failed: i64,
    skipped: i64,
    last_failure: Uuid,
    end_failure: Uuid,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
});

impl TryFrom<ReplayRow> for Replay {
    type Error = StoreError;

    fn try_from(row: ReplayRow) -> Result<Self, StoreError> {
        let code = row
            .code
            .as_deref()
            .map(|code| FailureCode::parse(code).ok_or_else(|| unreadable("failure code", code)));
        Ok(Self {
            replay_id: row.replay_id,
            which: OpenFailures {
                code: code.transpose()?,
                session_id: row.session_id,
                character_slug: row.character_slug,
                tenant_id: row.tenant_id,
                since: row.since,
                until: row.until,
                end: row.end_failure,
            },
            is_dry_run: row.is_dry_run,
            is_superseding: row.is_superseding,
            per_second: count(row.per_second),
            ordered_by: row.ordered_by,
            state: ReplayState::parse(&row.state)
                .ok_or_else(|| unreadable("state of a replay", &row.state))?,
            matched: row.matched,
            progress: Progress {
                finalized: row.finalized,
                accepted: row.accepted,
                duplicates: row.duplicates,
                failed: row.failed,
                skipped: row.skipped,
                last_failure: row.last_failure,
            },
            created_at: row.created_at,
            finished_at: row.finished_at,
        })
    }
}

row!(ApiKeyRow {
    key_id: Uuid,
    hash: Vec<u8>,
    preview: String,
    name: String,
    user: i64,
    is_staff: bool,
    is_active: bool,
    created_at: DateTime<Utc>,
    last_used_at: Option<DateTime<Utc>>,
});

impl TryFrom<ApiKeyRow> for ApiKey {
    type Error = StoreError;

    fn try_from(row: ApiKeyRow) -> Result<Self, StoreError> {
        Ok(Self {
            key_id: row.key_id,
            hash: digest(&row.hash)?,
            preview: row.preview,
            name: row.name,
            user: row.user,
            is_staff: row.is_staff,
            is_active: row.is_active,
            created_at: row.created_at,
            last_used_at: row.last_used_at,
        })
    }
}

/// Reads rows of one kind.
pub(super) fn read_all<R, T>(rows: Vec<R>) -> Result<Vec<T>, StoreError>
where
    T: TryFrom<R, Error = StoreError>,
{
    rows.into_iter().map(T::try_from).collect()
}
