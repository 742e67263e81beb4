//! Sending a whole range of deliveries again: a job in the database, done in small steps by
//! whichever process comes first, each step in a transaction of its own. What a killed process did
//! not commit, the next step does.

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::transaction::{DeliveryToKeep, Transaction};
use super::{Endpoint, StoreError};
use crate::clock::new_id;
use crate::finalize::{RecordingStatus, Session, full_payload, thin_payload};
use crate::webhook::{EventType, MessageId, MessageKey, PayloadKind};

/// Deliveries in one step.
const STEP: u32 = 500;
/// A redelivery whose step fails goes on after this time; others do not wait for it.
pub(super) const AFTER_FAILURE: TimeDelta = TimeDelta::seconds(30);
/// Messages looked at in one step: each may need its body made.
const MESSAGES_IN_STEP: u32 = 200;
/// Between two steps, however little there was to do.
const LEAST_PAUSE: TimeDelta = TimeDelta::milliseconds(20);

/// A range of an endpoint's deliveries that goes out again.
#[derive(Debug, Clone, PartialEq)]
pub struct Redelivery {
    /// Its id.
    pub redelivery_id: Uuid,
    /// Which deliveries.
    pub range: RedeliveryRange,
    /// At most so many a second are put on their way.
    pub per_second: u32,
    /// Where it stands.
    pub state: RedeliveryState,
    /// How many there were when it was ordered; `None`: very many.
    pub matched: Option<i64>,
    /// How many are on their way, or have arrived.
    pub redelivered: i64,
    /// How many were not sent: what their message told is no longer so, and its bytes never were.
    pub skipped: i64,
    /// How far it has come.
    pub position: Position,
    /// When it goes on.
    pub next_step_at: DateTime<Utc>,
    /// When it was ordered.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Which deliveries of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct RedeliveryRange {
    /// The endpoint.
    pub endpoint_id: Uuid,
    /// Deliveries made, or messages told, from then on.
    pub since: DateTime<Utc>,
    /// And before then.
    pub until: DateTime<Utc>,
    /// Which of them.
    pub statuses: Statuses,
}

/// Which deliveries of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statuses {
    /// Those whose every attempt failed.
    pub exhausted: bool,
    /// Those that were not sent because the endpoint was disabled.
    pub cancelled: bool,
    /// Messages that the endpoint would hear of today and was never owed.
    pub missing: bool,
}

impl Statuses {
    /// All of them.
    pub const ALL: Self = Self { exhausted: true, cancelled: true, missing: true };
    const NONE: Self = Self { exhausted: false, cancelled: false, missing: false };

    /// Reads a list of names.
    ///
    /// # Errors
    ///
    /// The name that is none, or nothing when there is no name at all.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut statuses = Self::NONE;
        for name in names {
            match name {
                "exhausted" => statuses.exhausted = true,
                "cancelled" => statuses.cancelled = true,
                "missing" => statuses.missing = true,
                other => return Err(other.to_owned()),
            }
        }
        if statuses == Self::NONE { Err(String::new()) } else { Ok(statuses) }
    }

    /// The names.
    pub fn names(self) -> Vec<&'static str> {
        let named = [
            (self.exhausted, "exhausted"),
            (self.cancelled, "cancelled"),
            (self.missing, "missing"),
        ];
        named.into_iter().filter_map(|(is_in, name)| is_in.then_some(name)).collect()
    }
}

/// Where a redelivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RedeliveryState {
    /// It goes on.
    Running,
    /// Everything is on its way.
    Done,
    /// It was stopped, by somebody or because the endpoint was disabled or deleted.
    Cancelled,
}

impl RedeliveryState {
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

/// How far a redelivery has come: deliveries first, then messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The last delivery looked at; all of them, when it is the greatest id there is.
    pub delivery: Uuid,
    /// The last message looked at, with its time.
    pub message: (DateTime<Utc>, Vec<u8>),
}

impl Position {
    /// The beginning of a range.
    pub fn start(since: DateTime<Utc>) -> Self {
        // No delivery has this very id: its version and its random part are nil.
        Self { delivery: least_id(since), message: (since, Vec::new()) }
    }
}

/// A message as a redelivery looks at it.
pub(super) struct ToldMessage {
    /// What its deliveries know it by.
    pub(super) row_id: Uuid,
    pub(super) message_id: MessageId,
    pub(super) event_type: EventType,
    pub(super) session_id: Option<Uuid>,
    pub(super) egress_id: Option<String>,
    pub(super) created_at: DateTime<Utc>,
    /// A delivery of it to the endpoint exists.
    pub(super) is_owed: bool,
    /// Its body of the endpoint's kind is stored.
    pub(super) has_body: bool,
    /// The session's owner, tenant and character, if there is a session.
    pub(super) about: Option<(i64, String, String)>,
}

/// The least id that a delivery made at this time can have: ids begin with their millisecond.
pub(super) fn least_id(time: DateTime<Utc>) -> Uuid {
    let milliseconds = u128::try_from(time.timestamp_millis()).unwrap_or(0);
    Uuid::from_u128(milliseconds << 80)
}

/// One step of a job that this transaction took; the job as it is then.
pub(super) async fn advance(
    mut tx: Box<dyn Transaction + '_>,
    mut job: Redelivery,
    installation: Uuid,
    public_url: &str,
    now: DateTime<Utc>,
) -> Result<Redelivery, StoreError> {
    let endpoint = tx.endpoint(job.range.endpoint_id).await?;
    match endpoint.filter(|endpoint| endpoint.disabled.is_none()) {
        None => job.end(RedeliveryState::Cancelled, now),
        Some(endpoint) => {
            let step = Step { endpoint: &endpoint, installation, public_url, now };
            let before = job.redelivered;
            let is_done = step.advance(tx.as_mut(), &mut job).await?;
            let seconds = f64_of(job.redelivered - before) / f64::from(job.per_second.max(1));
            let pause = TimeDelta::from_std(std::time::Duration::from_secs_f64(seconds));
            job.next_step_at = now + pause.unwrap_or(TimeDelta::seconds(1)).max(LEAST_PAUSE);
            if is_done {
                job.end(RedeliveryState::Done, now);
            }
        }
    }
    tx.put_redelivery(&job).await?;
    tx.commit().await?;
    Ok(job)
}

#[expect(clippy::cast_precision_loss, reason = "a step has a few hundred deliveries")]
fn f64_of(count: i64) -> f64 {
    count as f64
}

/// How fast a redelivery is, unless somebody says otherwise.
pub const PER_SECOND: u32 = 200;
/// The fastest that it can be.
pub const MOST_PER_SECOND: u32 = 5000;

impl Redelivery {
    /// A redelivery that begins `now`.
    pub fn new(
        redelivery_id: Uuid,
        range: RedeliveryRange,
        per_second: Option<u32>,
        matched: Option<i64>,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            redelivery_id,
            position: Position::start(range.since),
            range,
            per_second: per_second.unwrap_or(PER_SECOND),
            state: RedeliveryState::Running,
            matched,
            redelivered: 0,
            skipped: 0,
            next_step_at: now,
            created_at: now,
            finished_at: None,
        }
    }

    fn end(&mut self, state: RedeliveryState, now: DateTime<Utc>) {
        self.state = state;
        self.finished_at = Some(now);
    }
}

struct Step<'a> {
    endpoint: &'a Endpoint,
    installation: Uuid,
    public_url: &'a str,
    now: DateTime<Utc>,
}

impl Step<'_> {
    /// Sends the next few; true when there are no more.
    async fn advance(
        &self,
        tx: &mut dyn Transaction,
        job: &mut Redelivery,
    ) -> Result<bool, StoreError> {
        let statuses = job.range.statuses;
        let is_at_deliveries = job.position.delivery != Uuid::max();
        if is_at_deliveries && (statuses.exhausted || statuses.cancelled) {
            // A step takes no more than a second's worth.
            let limit = STEP.min(job.per_second.max(1));
            let after = job.position.delivery;
            let next = tx.undelivered(&job.range, after, limit).await?;
            let is_last = next.len() < limit as usize;
            if let Some(last) = next.last() {
                let owed = tx.redeliver_range(&job.range, (after, *last), self.now).await?;
                job.redelivered += i64::try_from(owed).unwrap_or(i64::MAX);
                job.position.delivery = *last;
            }
            if is_last {
                job.position.delivery = Uuid::max();
            }
            return Ok(is_last && !statuses.missing);
        }
        if statuses.missing { self.advance_missing(tx, job).await } else { Ok(true) }
    }

    async fn advance_missing(
        &self,
        tx: &mut dyn Transaction,
        job: &mut Redelivery,
    ) -> Result<bool, StoreError> {
        let position = &job.position.message;
        let told =
            tx.messages_told(self.endpoint, position, job.range.until, MESSAGES_IN_STEP).await?;
        let mut is_last = told.len() < MESSAGES_IN_STEP as usize;
        let mut left = job.per_second.max(1);
        for message in &told {
            if is_missing(message, self.endpoint) {
                if left == 0 {
                    is_last = false;
                    break;
                }
                let is_sent = self.owe(tx, message).await?;
                job.redelivered += i64::from(is_sent);
                job.skipped += i64::from(!is_sent);
                left -= u32::from(is_sent);
            }
            job.position.message = (message.created_at, message.message_id.0.to_vec());
        }
        Ok(is_last)
    }

    /// Makes the delivery of a message that was never owed; false if its body cannot be made.
    async fn owe(
        &self,
        tx: &mut dyn Transaction,
        message: &ToldMessage,
    ) -> Result<bool, StoreError> {
        let payload = self.endpoint.payload;
        if !message.has_body {
            let session = match message.session_id {
                Some(session_id) => tx.session(session_id).await?,
                None => None,
            };
            let Some(body) = session.and_then(|session| self.render(&session, message)) else {
                return Ok(false);
            };
            tx.put_body(message.row_id, payload, body).await?;
        }
        let delivery = DeliveryToKeep {
            delivery_id: new_id(self.now),
            message_row: message.row_id,
            endpoint_id: self.endpoint.endpoint_id,
            payload,
            is_cancelled: false,
            process_id: None,
            is_redelivery: true,
        };
        tx.put_deliveries(&[delivery], self.now).await?;
        Ok(true)
    }

    /// The message's body, if what it tells is still so: it was never sent, so its bytes do not
    /// exist, and a session that has moved on cannot tell what it was.
    fn render(&self, session: &Session, message: &ToldMessage) -> Option<Bytes> {
        let at = match message.event_type {
            EventType::SessionFinalized => {
                let (session_id, revision) = (session.session_id, session.revision);
                let key = MessageKey::Finalized { session_id, revision };
                let is_present = MessageId::new(self.installation, &key) == message.message_id;
                session.finalized_at.filter(|_| is_present)?
            }
            EventType::RecordingReady if session.recording.status == RecordingStatus::Ready => {
                message.created_at
            }
            EventType::RecordingFailed if session.recording.status == RecordingStatus::Failed => {
                message.created_at
            }
            _ => return None,
        };
        let (event_type, egress_id) = (message.event_type, message.egress_id.as_deref());
        let render = match self.endpoint.payload {
            PayloadKind::Thin => thin_payload,
            PayloadKind::Full => full_payload,
        };
        Some(render(event_type, at, session, egress_id, self.public_url))
    }
}

/// Whether the endpoint would hear of this message today, and was never owed it.
pub(super) fn is_missing(message: &ToldMessage, endpoint: &Endpoint) -> bool {
    let hears = message.about.as_ref().is_some_and(|(owner, tenant, character)| {
        endpoint.hears(message.event_type, *owner, tenant, character)
    });
    hears && !message.is_owed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_and_written_by_name() {
        let all = Statuses::parse(["missing", "exhausted", "cancelled"]).unwrap();
        assert_eq!(all, Statuses::ALL);
        assert_eq!(all.names(), ["exhausted", "cancelled", "missing"]);
        assert_eq!(Statuses::parse(["cancelled"]).unwrap().names(), ["cancelled"]);
        assert_eq!(Statuses::parse(["delivered"]), Err("delivered".to_owned()));
        assert_eq!(Statuses::parse([]), Err(String::new()));
    }

    #[test]
    fn an_id_made_at_a_time_is_not_before_the_least_one_of_that_time() {
        let time = DateTime::from_timestamp_micros(1_780_000_000_123_456).unwrap();
        let millisecond = TimeDelta::milliseconds(1);
        assert!(least_id(time) <= new_id(time));
        assert!(new_id(time - millisecond) < least_id(time));
        assert!(new_id(time) < least_id(time + millisecond));
    }
}
