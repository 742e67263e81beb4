//! Deliveries and attempts: what is owed, what came of it, and how people ask for it.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::event::TraceParent;
use crate::webhook::{EventType, Failing, MessageId};

/// A delivery that this process holds: all that an attempt needs.
#[derive(Debug, Clone)]
pub struct Owed {
    /// The delivery.
    pub delivery_id: Uuid,
    /// The id under which this process holds it.
    pub process_id: Uuid,
    /// The message: the `webhook-id`.
    pub message_id: MessageId,
    /// The endpoint.
    pub endpoint_id: Uuid,
    /// Whose endpoint it is; `None`: staff's, who hear of everyone's sessions.
    pub owner: Option<i64>,
    /// What the message tells.
    pub event_type: EventType,
    /// The exact bytes to send.
    pub body: Bytes,
    /// Attempts made so far.
    pub attempts: u32,
    /// Attempts made before somebody had it sent again; `None`: nobody had.
    pub redelivered_after: Option<u32>,
    /// Since when there is something to tell: the session is readable as long.
    pub told_at: DateTime<Utc>,
    /// The trace of the event that brought it about.
    pub trace: Option<TraceParent>,
}

impl Owed {
    /// It was attempted before, or somebody has it sent again: it goes behind what is new.
    pub fn is_retry(&self) -> bool {
        self.attempts > 0 || self.redelivered_after.is_some()
    }

    /// Attempts made in the present round of the schedule.
    pub fn attempts_of_round(&self) -> u32 {
        self.attempts.saturating_sub(self.redelivered_after.unwrap_or(0))
    }
}

/// How much there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Deliveries that are owed: [`WORKLOAD_COUNTED`] if it is so many or more.
    pub pending: u32,
    /// When the one fell due that has waited longest and may be attempted, if any is due.
    pub due_since: Option<DateTime<Utc>>,
    /// Failures that are open: [`WORKLOAD_COUNTED`] if it is so many or more.
    pub open_failures: u32,
}

/// More are not counted: whoever asks does so every few seconds.
pub const WORKLOAD_COUNTED: u32 = 10_000;

/// Endpoints that have something due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueEndpoint {
    /// The endpoint.
    pub endpoint_id: Uuid,
    /// Whose it is.
    pub owner: Option<i64>,
    /// Its own limit; see [`crate::webhook::RateLimit`].
    pub rate_limit_per_minute: Option<u32>,
}

/// How much may be claimed of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The endpoint.
    pub endpoint_id: Uuid,
    /// At most so many.
    pub free: u32,
    /// Of them at most so many that were attempted before: what is new finds a place.
    pub free_for_retries: u32,
    /// And no more than this limit lets start now, whoever claims.
    pub rate_limit_per_minute: Option<u32>,
}

impl Slot {
    /// One of it is taken.
    pub fn fill(&mut self, is_retry: bool) {
        self.free = self.free.saturating_sub(1);
        self.free_for_retries = self.free_for_retries.saturating_sub(u32::from(is_retry));
    }
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// Owed.
    Pending,
    /// The receiver said 2xx.
    Delivered,
    /// Every attempt failed.
    Exhausted,
    /// Not to be sent (the endpoint was disabled or deleted).
    Cancelled,
}

impl DeliveryState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Delivered, Self::Exhausted, Self::Cancelled];

    /// The state as it stands in databases and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Exhausted => "exhausted",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// One message owed to one endpoint, as people see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// Its id.
    pub delivery_id: Uuid,
    /// The message.
    pub message_id: MessageId,
    /// What the message tells.
    pub event_type: EventType,
    /// Of which session, if of one.
    pub session_id: Option<Uuid>,
    /// To whom.
    pub endpoint_id: Uuid,
    /// Where it stands.
    pub state: DeliveryState,
    /// Why it was cancelled: `endpoint_disabled` or `endpoint_deleted`.
    pub cause: Option<String>,
    /// Attempts made so far.
    pub attempts: u32,
    /// Attempts made before somebody had it sent again.
    pub redelivered_after: Option<u32>,
    /// When the next attempt is due.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When it came into being.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// A delivery with all that is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryStory {
    /// The delivery.
    pub delivery: Delivery,
    /// The exact bytes that are sent.
    pub body: Bytes,
    /// Its attempts, the first one first.
    pub attempts: Vec<Attempt>,
}

/// Which deliveries to list, the newest first.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    /// Only to this endpoint.
    pub endpoint_id: Option<Uuid>,
    /// Only in this state.
    pub state: Option<DeliveryState>,
    /// Only older ones than this delivery: the last one of the page before.
    pub before: Option<Uuid>,
    /// At most so many.
    pub limit: u32,
}

impl DeliveryFilter {
    /// What of these deliveries is asked for, the newest first.
    pub fn apply(&self, mut found: Vec<Delivery>) -> Vec<Delivery> {
        found.retain(|delivery| {
            self.endpoint_id.is_none_or(|id| delivery.endpoint_id == id)
                && self.state.is_none_or(|state| delivery.state == state)
                && self.before.is_none_or(|before| delivery.delivery_id < before)
        });
        found.sort_by_key(|delivery| std::cmp::Reverse(delivery.delivery_id));
        found.truncate(usize::try_from(self.limit).unwrap_or(usize::MAX));
        found
    }
}

/// One HTTP try.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub duration_us: i64,
    /// The receiver's status.
    pub status: Option<u16>,
    /// Why there was no status, or no success, in a few words: `timeout`, `connect`, `dns`, `tls`,
    /// `refused_address`, `closed`, …
    pub error: Option<String>,
    /// Status line and headers, cut.
    pub response_head: Option<String>,
    /// At most 16 KiB of the response's body.
    pub response_body: Bytes,
    /// The address connected to.
    pub address: Option<String>,
    /// The connection had carried an earlier request.
    pub is_connection_reused: bool,
}

impl Attempt {
    /// When it ended.
    pub fn finished_at(&self) -> DateTime<Utc> {
        self.started_at + TimeDelta::microseconds(self.duration_us)
    }
}

/// One attempt, and what it makes of its delivery and its endpoint.
#[derive(Debug, Clone)]
pub struct AttemptResult {
    /// The delivery.
    pub delivery_id: Uuid,
    /// The endpoint.
    pub endpoint_id: Uuid,
    /// Where it went: what it says of the endpoint counts only while that is still its URL.
    pub url: Arc<str>,
    /// The attempt.
    pub attempt: Attempt,
    /// What the delivery becomes.
    pub next: Next,
    /// What it says of the endpoint.
    pub verdict: Verdict,
    /// Until when the receiver wants no requests.
    pub pause_until: Option<DateTime<Utc>>,
}

/// What an attempt makes of its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Delivered.
    Done,
    /// Not yet; try again then.
    RetryAt(DateTime<Utc>),
    /// That was the last attempt.
    Exhausted,
    /// Its endpoint takes no more.
    Cancelled(Cause),
}

/// Why a delivery is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The endpoint is disabled.
    EndpointDisabled,
    /// The endpoint was deleted.
    EndpointDeleted,
    /// The session was erased, and with it what there was to send.
    SessionErased,
}

impl Cause {
    /// The cause as it stands in databases and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EndpointDisabled => "endpoint_disabled",
            Self::EndpointDeleted => "endpoint_deleted",
            Self::SessionErased => "session_erased",
        }
    }
}

impl Next {
    /// Why the delivery is cancelled, if it is.
    pub(super) fn cause(self) -> Option<&'static str> {
        if let Self::Cancelled(cause) = self { Some(cause.as_str()) } else { None }
    }

    /// The delivery's state, and when it is due again.
    pub(super) fn as_row(self) -> (DeliveryState, Option<DateTime<Utc>>) {
        match self {
            Self::Done => (DeliveryState::Delivered, None),
            Self::RetryAt(at) => (DeliveryState::Pending, Some(at)),
            Self::Exhausted => (DeliveryState::Exhausted, None),
            Self::Cancelled(_) => (DeliveryState::Cancelled, None),
        }
    }
}

/// What an attempt says of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It takes webhooks.
    Works,
    /// It does not; nothing but this for long disables it.
    Fails,
    /// It said 410: it wants no more, ever.
    Gone,
    /// Nothing: the trouble was ours, or somebody tried by hand.
    Nothing,
}

/// What was recorded, and what it made of endpoints.
#[derive(Debug, Default)]
pub struct Recorded {
    /// The deliveries whose results count.
    pub deliveries: Vec<Uuid>,
    /// Endpoints that were disabled, with the reason.
    pub disabled: Vec<(Uuid, &'static str)>,
    /// Endpoints that come near to being disabled: 50, 70 or 90 percent.
    pub warned: Vec<(Uuid, Failing, u32)>,
}

/// How an endpoint fares, if not simply well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointHealth {
    /// The endpoint.
    pub endpoint_id: Uuid,
    /// It has only failed of late.
    pub failing: Option<Failing>,
    /// It wants no requests until then.
    pub paused_until: Option<DateTime<Utc>>,
}
