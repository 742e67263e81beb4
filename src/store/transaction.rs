//! One transaction, as the units of work need it: what differs between the databases, and what does
//! not.

use std::collections::{BTreeSet, HashSet};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::failures::FailureRows;
use super::prune::{OldDelivery, OldMessage, PrunePosition};
use super::redelivery::{Redelivery, RedeliveryRange, ToldMessage};
use super::{AttemptResult, Cause, Endpoint, StoreError};
use crate::clock::new_id;
use crate::event::{Digest, Egress, Rejection};
use crate::finalize::{Erased, FinishedRoom, JoinedEgress, NewMessage, Session, recorded_span};
use crate::webhook::{Failing, MessageId, PayloadKind};

/// One database transaction. Dropped without `commit`, it never was.
#[async_trait]
pub(super) trait Transaction: Rowwise + FailureRows + Send {
    /// Sessions by these keys, in the order of their ids, locked against other writers.
    async fn sessions(
        &mut self,
        keys: &SessionKeys,
        locked: WhenLocked,
    ) -> Result<Vec<Session>, StoreError>;
    /// Recordings by these keys, in the order of their ids; not locked, see `put_egresses`.
    async fn egresses(&mut self, keys: &EgressKeys) -> Result<Vec<JoinedEgress>, StoreError>;
    /// The endpoints of these owners, and those of all owners.
    async fn endpoints(&mut self, owners: &[i64]) -> Result<Vec<Endpoint>, StoreError>;
    /// Fresh numbers for new sessions.
    async fn numbers(&mut self, count: usize) -> Result<Vec<i64>, StoreError>;
    /// Inserts or changes sessions; how many. Fewer than given: another worker was first.
    async fn put_sessions(&mut self, sessions: &[Session]) -> Result<u64, StoreError>;
    /// Inserts or changes recordings; how many. Fewer than given: another worker was first.
    async fn put_egresses(
        &mut self,
        egresses: &[JoinedEgress],
        now: DateTime<Utc>,
    ) -> Result<u64, StoreError>;
    /// The checkpoints of these sessions.
    async fn checkpoints(&mut self, sessions: &BTreeSet<Uuid>) -> Result<Vec<Session>, StoreError>;
    /// Keeps checkpoints, in the place of those before.
    async fn put_checkpoints(&mut self, checkpoints: &[Session]) -> Result<(), StoreError>;
    /// Removes the checkpoints of these sessions.
    async fn drop_checkpoints(&mut self, sessions: &[Uuid]) -> Result<(), StoreError>;
    /// Closed rooms by these keys.
    async fn rooms(&mut self, keys: &RoomKeys) -> Result<Vec<FinishedRoom>, StoreError>;
    /// Keeps closed rooms that are not known yet.
    async fn put_rooms(&mut self, rooms: &[FinishedRoom]) -> Result<(), StoreError>;
    /// Which of these were erased.
    async fn erased(&mut self, candidates: &Erased) -> Result<Erased, StoreError>;
    /// Inserts messages that do not exist yet; which.
    async fn put_messages(
        &mut self,
        messages: &[MessageToKeep<'_>],
        now: DateTime<Utc>,
    ) -> Result<HashSet<MessageId>, StoreError>;
    /// Inserts deliveries.
    async fn put_deliveries(
        &mut self,
        deliveries: &[DeliveryToKeep],
        now: DateTime<Utc>,
    ) -> Result<(), StoreError>;
    /// Records attempts and what they make of their deliveries; only those that `process` still
    /// holds, and none twice. Returns the ids that were recorded.
    async fn put_results(
        &mut self,
        process: Uuid,
        results: &[AttemptResult],
    ) -> Result<Vec<Uuid>, StoreError>;
    /// Which of these endpoints have only failed of late.
    async fn failing(&mut self, among: &[Uuid]) -> Result<Vec<Uuid>, StoreError>;
    /// Cancels pending deliveries of an endpoint that takes no more, that no process holds and nobody is writing at the
    /// moment; how many, at most `limit`.
    async fn cancel_pending(
        &mut self,
        endpoint_id: Uuid,
        cause: Cause,
        now: DateTime<Utc>,
        limit: u32,
    ) -> Result<u64, StoreError>;
    /// All deliveries of these messages, locked; fails if somebody else has locked one.
    async fn old_deliveries(
        &mut self,
        messages: &[Uuid],
        before: DateTime<Utc>,
    ) -> Result<Vec<OldDelivery>, StoreError>;
    /// Deletes deliveries and their attempts; how many of those.
    async fn drop_deliveries(&mut self, deliveries: &[Uuid]) -> Result<u64, StoreError>;
    /// Drops the bytes of messages, for good.
    async fn drop_bodies(&mut self, messages: &[Uuid]) -> Result<(), StoreError>;
    /// Makes it all true.
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// The part of a transaction that goes row by row, with the same statements in both databases: see
/// `impl_rowwise` in `shared.rs`.
#[async_trait]
pub(super) trait Rowwise {
    /// Inserts a failure, or counts up the same one; its id.
    async fn put_failure(&mut self, failure: &FailureToKeep<'_>) -> Result<Uuid, StoreError>;
    /// The session with this id, not locked.
    async fn session(&mut self, session_id: Uuid) -> Result<Option<Session>, StoreError>;
    /// The endpoint with this id, unless it is deleted.
    async fn endpoint(&mut self, endpoint_id: Uuid) -> Result<Option<Endpoint>, StoreError>;
    /// Disables an endpoint that is not; as it is then.
    async fn disable(
        &mut self,
        endpoint_id: Uuid,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<Endpoint>, StoreError>;
    /// The endpoint works: its failures are not held against it.
    async fn forget_failing(&mut self, endpoint_id: Uuid) -> Result<(), StoreError>;
    /// How an endpoint fares, locked against others who want to change it.
    async fn health(&mut self, endpoint_id: Uuid) -> Result<Health, StoreError>;
    /// Keeps how an endpoint fares.
    async fn put_health(&mut self, endpoint_id: Uuid, health: &Health) -> Result<(), StoreError>;
    /// The redelivery that goes on next, if one is due; nobody else gets it meanwhile.
    async fn take_redelivery(
        &mut self,
        now: DateTime<Utc>,
    ) -> Result<Option<Redelivery>, StoreError>;
    /// Keeps how far a redelivery has come.
    async fn put_redelivery(&mut self, job: &Redelivery) -> Result<(), StoreError>;
    /// The next deliveries of a range that did not arrive, whichever of them are wanted.
    async fn undelivered(
        &mut self,
        range: &RedeliveryRange,
        after: Uuid,
        limit: u32,
    ) -> Result<Vec<Uuid>, StoreError>;
    /// Owes anew what is wanted of the deliveries behind `after` up to `last`; how many.
    async fn redeliver_range(
        &mut self,
        range: &RedeliveryRange,
        (after, last): (Uuid, Uuid),
        now: DateTime<Utc>,
    ) -> Result<u64, StoreError>;
    /// The next messages that were told, whoever heard of them.
    async fn messages_told(
        &mut self,
        endpoint: &Endpoint,
        after: &(DateTime<Utc>, Vec<u8>),
        until: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<ToldMessage>, StoreError>;
    /// The next messages behind `after` that were told before then and still have their bytes, locked;
    /// those that somebody else has locked are left out.
    async fn old_messages(
        &mut self,
        before: DateTime<Utc>,
        after: &PrunePosition,
        limit: u32,
    ) -> Result<Vec<OldMessage>, StoreError>;
    /// Keeps the body of a message that was not owed to anyone of this kind before.
    async fn put_body(
        &mut self,
        row_id: Uuid,
        payload: PayloadKind,
        body: Bytes,
    ) -> Result<(), StoreError>;
}

/// How an endpoint fares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Health {
    /// It has only failed of late.
    pub(super) failing: Option<Failing>,
    /// It wants no requests until then.
    pub(super) paused_until: Option<DateTime<Utc>>,
    /// When its rate limit lets the next attempt start.
    pub(super) next_slot_at: Option<DateTime<Utc>>,
}

/// What to do when another writer has locked one of the sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenLocked {
    /// Wait for it.
    Wait,
    /// Fail: whoever holds locks already, and waits for one that is not behind all of them, may wait for
    /// somebody who waits for it.
    Fail,
}

/// Which sessions a batch touches.
#[derive(Debug, Clone, Default)]
pub(super) struct SessionKeys {
    /// By id.
    pub(super) ids: BTreeSet<Uuid>,
    /// Those that named one of these egresses.
    pub(super) egress_ids: BTreeSet<String>,
    /// Those that were in one of these rooms in that time.
    pub(super) rooms: BTreeSet<RoomSpan>,
}

/// A room, by id and name, in a stretch of time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RoomSpan {
    pub(super) room_id: Option<String>,
    pub(super) room_name: Option<String>,
    pub(super) from: DateTime<Utc>,
    pub(super) to: DateTime<Utc>,
}

/// Which recordings to look for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressKeys {
    /// By id.
    pub ids: BTreeSet<String>,
    /// Those of these sessions, or that name them.
    pub sessions: BTreeSet<Uuid>,
    /// Those without a session, in rooms with these ids.
    pub room_ids: BTreeSet<String>,
    /// Those without a session, in rooms with these names.
    pub room_names: BTreeSet<String>,
}

/// Which closed rooms a batch touches.
#[derive(Debug, Default)]
pub(super) struct RoomKeys {
    /// Those of these events.
    pub(super) digests: BTreeSet<Digest>,
    /// Those that name these sessions.
    pub(super) sessions: BTreeSet<Uuid>,
    /// Those with these ids.
    pub(super) room_ids: BTreeSet<String>,
    /// Those with these names.
    pub(super) room_names: BTreeSet<String>,
}

/// A message as it is inserted.
pub(super) struct MessageToKeep<'a> {
    /// What its deliveries know it by. Rises with the time, as its id does not.
    pub(super) row_id: Uuid,
    pub(super) message: &'a NewMessage,
}

impl<'a> MessageToKeep<'a> {
    pub(super) fn new(message: &'a NewMessage, now: DateTime<Utc>) -> Self {
        Self { row_id: new_id(now), message }
    }
}

/// A delivery as it is inserted.
pub(super) struct DeliveryToKeep {
    pub(super) delivery_id: Uuid,
    pub(super) message_row: Uuid,
    pub(super) endpoint_id: Uuid,
    pub(super) payload: PayloadKind,
    pub(super) is_cancelled: bool,
    pub(super) process_id: Option<Uuid>,
    /// It goes out long after its message was told, and waits behind what is new.
    pub(super) is_redelivery: bool,
}

/// A failure as it is inserted.
pub(super) struct FailureToKeep<'a> {
    pub(super) failure_id: Uuid,
    pub(super) rejection: &'a Rejection,
    pub(super) source: &'a str,
    pub(super) headers: Option<&'a str>,
    pub(super) tenant_id: Option<&'a str>,
    pub(super) character_slug: Option<&'a str>,
    pub(super) raw: &'a [u8],
    pub(super) raw_sha256: [u8; 32],
    pub(super) now: DateTime<Utc>,
}

impl SessionKeys {
    /// Takes others in.
    pub(super) fn extend(&mut self, others: Self) {
        let Self { ids, egress_ids, rooms } = others;
        self.ids.extend(ids);
        self.egress_ids.extend(egress_ids);
        self.rooms.extend(rooms);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.egress_ids.is_empty() && self.rooms.is_empty()
    }
}

impl RoomSpan {
    pub(super) fn of(egress: &Egress) -> Option<Self> {
        let (room_id, room_name) = (egress.room_id.clone(), egress.room_name.clone());
        let (from, to) = recorded_span(egress);
        let has_room = room_id.is_some() || room_name.is_some();
        has_room.then_some(Self { room_id, room_name, from, to })
    }

    /// The moment when a room was closed.
    pub(super) fn of_moment(room: &FinishedRoom) -> Self {
        Self {
            room_id: room.room_id.clone(),
            room_name: room.room_name.clone(),
            from: room.finished_at,
            to: room.finished_at,
        }
    }
}

impl EgressKeys {
    /// Those that may belong to a session.
    pub(super) fn add_those_of(&mut self, session: &Session) {
        self.ids.extend(session.recording_egress_id.clone());
        self.sessions.insert(session.session_id);
        self.room_ids.extend(session.room_id.clone());
        self.room_names.extend(session.room_name.clone());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
            && self.sessions.is_empty()
            && self.room_ids.is_empty()
            && self.room_names.is_empty()
    }
}

impl DeliveryToKeep {
    pub(super) fn state(&self) -> super::DeliveryState {
        if self.is_cancelled {
            super::DeliveryState::Cancelled
        } else {
            super::DeliveryState::Pending
        }
    }

    pub(super) fn cause(&self) -> Option<&'static str> {
        self.is_cancelled.then_some(Cause::EndpointDisabled.as_str())
    }

    pub(super) fn redelivered_after(&self) -> Option<i32> {
        self.is_redelivery.then_some(0)
    }
}
