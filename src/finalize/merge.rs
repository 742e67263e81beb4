//! A batch of events against what is stored: what to write, and what to say of each event.
//!
//! [`plan`] is the only place where an event meets a stored session. It takes the events one by
//! one in their order, so a batch is the same as its events alone; both stores load a
//! [`Snapshot`], call `plan`, and write the [`Plan`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::join::{JoinedBy, JoinedEgress, best_match};
use super::recording::{Finding, awaited_egress, egress_outcome, merge_egress, settle_recording};
use super::session::Session;
use super::silence::{FinishedRoom, Silence, abandon, room_of};
use super::summary::{full_payload, thin_payload};
use crate::event::{Digest, Egress, FailureCode, Rejection, TraceParent};
use crate::webhook::{Endpoint, EventType, MessageId, MessageKey, PayloadKind};

/// One event, decoded and finalized as far as it can be without the store.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// What it would change, or why it cannot.
    pub change: Result<Change, Rejection>,
    /// The event's bytes, kept if it becomes a failure.
    pub raw: Bytes,
    /// Where it came from: `amqp:finalizer.events`, `http`, `file:calls.ndjson:17`.
    pub source: Arc<str>,
    /// What the transport said of it, for the failure it may become: a JSON list of `{name, value}`.
    pub headers: Option<Arc<str>>,
    /// The trace it belongs to, if the transport said so: what is told because of it carries it on.
    pub trace: Option<TraceParent>,
    /// The event's `event_id` and `type`, for tracing and for the failure it may become.
    pub event_id: Option<String>,
    /// See `event_id`.
    pub event_type: Option<&'static str>,
    /// A fresh id for the failure it may become.
    pub failure_id: Uuid,
}

/// What an event changes.
#[derive(Debug, Clone)]
pub enum Change {
    /// A call began.
    Started(Box<Session>),
    /// A call has come so far; the session is what it would be if it were over.
    Checkpoint {
        /// Rises from one checkpoint of a call to the next.
        sequence: i64,
        /// As in `Ended`.
        so_far: Box<Session>,
    },
    /// A call is over; `revision`, `finalized_at` and the recording are still open.
    Ended(Box<Session>),
    /// The same, and somebody wants it to take the place of an event with other content.
    Superseding(Box<Session>),
    /// Something is known of a recording.
    Recording {
        /// The session, if the event named it.
        session_id: Option<Uuid>,
        /// The report.
        egress: Box<Egress>,
    },
    /// Nobody said anything of a session's recording, and the sweep looked.
    Swept {
        /// The session.
        session_id: Uuid,
        /// What it found out.
        finding: Finding,
    },
    /// A room is closed.
    Room(Box<FinishedRoom>),
    /// Nobody said anything of a call for long.
    Silent {
        /// The call.
        session_id: Uuid,
        /// For how long.
        silence: Silence,
    },
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It made a revision of this session.
    Finalized(Uuid),
    /// It had any other effect, or waits to be joined.
    Accepted(Option<Uuid>),
    /// It had been taken before.
    Duplicate(Option<Uuid>),
    /// It is to be kept as this failure.
    Failed {
        /// The failure.
        failure_id: Uuid,
        /// Why.
        rejection: Rejection,
    },
}

/// What is stored about the sessions and recordings a batch touches, and the world it meets.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// The present.
    pub now: DateTime<Utc>,
    /// Whose message ids these are.
    pub installation: Uuid,
    /// Payloads name sessions below this URL.
    pub public_url: &'a str,
    /// The default recordings place.
    pub place: &'a str,
    /// The sessions that the events name or their recordings may belong to.
    pub sessions: BTreeMap<Uuid, Session>,
    /// The recordings that the events name, or that may belong to these sessions, and every
    /// other recording of these sessions.
    pub egresses: BTreeMap<String, JoinedEgress>,
    /// The newest checkpoints of the sessions that are silent.
    pub checkpoints: BTreeMap<Uuid, Session>,
    /// The closed rooms that the events tell of, or that silent sessions may have been in.
    pub rooms: BTreeMap<Digest, FinishedRoom>,
    /// What was erased of all that the events name.
    pub erased: &'a Erased,
    /// Numbers for new sessions, at least one for each session that is not stored yet.
    pub numbers: Vec<i64>,
    /// The endpoints of the sessions' owners.
    pub endpoints: &'a [Endpoint],
}

/// Sessions that were erased and their recordings, or some that may have been.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Erased {
    /// By id.
    pub sessions: BTreeSet<Uuid>,
    /// By id.
    pub egresses: BTreeSet<String>,
}

/// What to write.
#[derive(Debug, Default)]
pub struct Plan {
    /// One per event, in order.
    pub outcomes: Vec<Outcome>,
    /// Sessions that are new or changed, by id.
    pub sessions: Vec<Session>,
    /// Recordings that are new or changed, by id.
    pub egresses: Vec<JoinedEgress>,
    /// Checkpoints that are newer than those before.
    pub checkpoints: Vec<Session>,
    /// Sessions whose checkpoints are of no use any more.
    pub spent_checkpoints: Vec<Uuid>,
    /// Rooms that are not known to be closed yet.
    pub rooms: Vec<FinishedRoom>,
    /// Messages that now exist.
    pub messages: Vec<NewMessage>,
    /// What is owed to whom.
    pub deliveries: Vec<NewDelivery>,
    /// Which failed events (by position) are to be kept, and why.
    pub failures: Vec<(usize, Rejection)>,
    /// Sessions whose room or recording became known with this batch.
    pub joinable_sessions: Vec<Uuid>,
    /// Recordings that were looked at and still have no session.
    pub unjoined_egresses: Vec<String>,
}

/// A message to keep.
#[derive(Debug)]
pub struct NewMessage {
    /// Its id.
    pub message_id: MessageId,
    /// What it tells.
    pub event_type: EventType,
    /// Of which session, if it tells of one.
    pub session_id: Option<Uuid>,
    /// That session's number.
    pub session_number: Option<i64>,
    /// Of which recording, if it tells of one.
    pub egress_id: Option<String>,
    /// The body for `thin` endpoints, if one is owed it.
    pub thin: Option<Bytes>,
    /// The body for `full` endpoints, if one is owed it.
    pub full: Option<Bytes>,
    /// The trace of the event that it is told because of.
    pub trace: Option<TraceParent>,
}

/// A delivery to keep.
#[derive(Debug)]
pub struct NewDelivery {
    /// Which of the plan's messages, by position.
    pub message: usize,
    /// To whom.
    pub endpoint_id: Uuid,
    /// Whose endpoint that is.
    pub owner: Option<i64>,
    /// Which body.
    pub payload: PayloadKind,
    /// The endpoint is disabled: the delivery is born cancelled.
    pub is_cancelled: bool,
    /// The endpoint has a rate limit of its own.
    pub is_limited: bool,
}

/// Decides what a batch changes.
pub fn plan(snapshot: Snapshot<'_>, events: &[Prepared]) -> Plan {
    let mut merge = Merge {
        world: snapshot,
        changed_sessions: BTreeSet::new(),
        changed_egresses: BTreeSet::new(),
        changed_checkpoints: BTreeSet::new(),
        spent_checkpoints: BTreeSet::new(),
        joinable_sessions: BTreeSet::new(),
        looked_at: BTreeSet::new(),
        trace: None,
        plan: Plan::default(),
    };
    for (position, event) in events.iter().enumerate() {
        merge.trace = event.trace;
        let outcome = match &event.change {
            _ if merge.world.erased.has(event) => Ok(Outcome::Duplicate(event.session_id())),
            Ok(change) => merge.take(change),
            Err(rejection) => Err(rejection.clone()),
        };
        let outcome = outcome.unwrap_or_else(|rejection| {
            let rejection = Rejection {
                event_id: rejection.event_id.or_else(|| event.event_id.clone()).map(printable),
                event_type: rejection.event_type.or(event.event_type.map(str::to_owned)),
                ..rejection
            };
            merge.plan.failures.push((position, rejection.clone()));
            Outcome::Failed { failure_id: event.failure_id, rejection }
        });
        merge.plan.outcomes.push(outcome);
    }
    merge.finish()
}

impl Prepared {
    /// The session that the event is about, if it says, whatever is to become of the event.
    pub fn session_id(&self) -> Option<Uuid> {
        match &self.change {
            Ok(
                Change::Started(session)
                | Change::Checkpoint { so_far: session, .. }
                | Change::Ended(session)
                | Change::Superseding(session),
            ) => Some(session.session_id),
            Ok(Change::Swept { session_id, .. } | Change::Silent { session_id, .. }) => {
                Some(*session_id)
            }
            Ok(Change::Recording { session_id, .. }) => *session_id,
            Ok(Change::Room(room)) => room.session_id,
            Err(rejection) => rejection.session_id,
        }
    }

    fn egress_id(&self) -> Option<&String> {
        match &self.change {
            Ok(Change::Recording { egress, .. }) => Some(&egress.egress_id),
            _ => None,
        }
    }
}

impl Erased {
    /// All that the events name.
    pub fn candidates(events: &[Prepared]) -> Self {
        Self {
            sessions: events.iter().filter_map(Prepared::session_id).collect(),
            egresses: events.iter().filter_map(Prepared::egress_id).cloned().collect(),
        }
    }

    /// Nothing is.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.egresses.is_empty()
    }

    /// The event is about something that was erased: it has no effect, and leaves nothing behind.
    fn has(&self, event: &Prepared) -> bool {
        event.session_id().is_some_and(|id| self.sessions.contains(&id))
            || event.egress_id().is_some_and(|id| self.egresses.contains(id))
    }
}

/// PostgreSQL's text cannot hold U+0000.
fn printable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}") } else { text }
}

/// The world as it is after the events taken so far.
struct Merge<'a> {
    world: Snapshot<'a>,
    changed_sessions: BTreeSet<Uuid>,
    changed_egresses: BTreeSet<String>,
    changed_checkpoints: BTreeSet<Uuid>,
    spent_checkpoints: BTreeSet<Uuid>,
    joinable_sessions: BTreeSet<Uuid>,
    looked_at: BTreeSet<String>,
    /// Of the event that is being taken.
    trace: Option<TraceParent>,
    plan: Plan,
}

impl Merge<'_> {
    fn take(&mut self, change: &Change) -> Result<Outcome, Rejection> {
        match change {
            Change::Started(session) => self.take_started(session),
            Change::Checkpoint { sequence, so_far } => self.take_checkpoint(*sequence, so_far),
            Change::Ended(session) => self.take_ended(session, false),
            Change::Superseding(session) => self.take_ended(session, true),
            Change::Recording { session_id, egress } => {
                Ok(self.take_recording(*session_id, egress))
            }
            Change::Swept { session_id, finding } => Ok(self.take_swept(*session_id, finding)),
            Change::Room(room) => Ok(self.take_room(room)),
            Change::Silent { session_id, silence } => Ok(self.take_silent(*session_id, *silence)),
        }
    }

    fn take_started(&mut self, started: &Session) -> Result<Outcome, Rejection> {
        let session_id = started.session_id;
        let mut session = Session { heard_at: Some(self.world.now), ..started.clone() };
        match self.world.sessions.get(&session_id) {
            Some(known) if known.character_owner != started.character_owner => {
                return Err(other_owner(started));
            }
            // Two that differ: the greater digest stands, whatever their order. A checkpoint
            // knows more than any start.
            Some(known)
                if known.revision > 0
                    || known.checkpoint_sequence.is_some()
                    || known.digest >= started.digest =>
            {
                return Ok(Outcome::Duplicate(Some(session_id)));
            }
            Some(known) => {
                session.id = known.id;
                session.version = known.version;
            }
            None => {}
        }
        self.put_session(session);
        self.join_session(session_id);
        Ok(Outcome::Accepted(Some(session_id)))
    }

    fn take_checkpoint(&mut self, sequence: i64, so_far: &Session) -> Result<Outcome, Rejection> {
        let session_id = so_far.session_id;
        let mut session = so_far.unfinished();
        session.checkpoint_sequence = Some(sequence);
        session.heard_at = Some(self.world.now);
        let known = self.world.sessions.get(&session_id);
        if let Some(known) = known {
            if known.character_owner != so_far.character_owner {
                return Err(other_owner(so_far));
            }
            // Two with one number that differ: the greater digest stands, whatever their order.
            let newest = known.checkpoint_sequence.map(|sequence| (sequence, known.digest));
            if known.revision > 0 || newest >= Some((sequence, so_far.digest)) {
                return Ok(Outcome::Duplicate(Some(session_id)));
            }
            session.id = known.id;
            session.version = known.version;
            session.recording = known.recording.clone();
        }
        if known.is_some_and(|known| looks_the_same(known, &session)) {
            self.changed_sessions.insert(session_id);
            self.world.sessions.insert(session_id, session);
        } else {
            self.put_session(session);
            self.join_session(session_id);
        }
        self.changed_checkpoints.insert(session_id);
        self.world.checkpoints.insert(session_id, so_far.clone());
        Ok(Outcome::Accepted(Some(session_id)))
    }

    fn take_ended(&mut self, ended: &Session, is_superseding: bool) -> Result<Outcome, Rejection> {
        let session_id = ended.session_id;
        let mut session = ended.clone();
        if let Some(known) = self.world.sessions.get(&session_id) {
            if known.character_owner != ended.character_owner {
                return Err(other_owner(ended));
            }
            if known.revision > 0 && !known.is_provisional() {
                if known.digest == ended.digest || known.superseded.contains(&ended.digest) {
                    return Ok(Outcome::Duplicate(Some(session_id)));
                }
                if !is_superseding {
                    return Err(other_content(ended));
                }
                supersede(&mut session, known);
            }
            session.id = known.id;
            session.version = known.version;
            session.revision = known.revision;
            // A file that was seen is there, whoever has ended the call.
            session.is_recording_found = known.is_recording_found
                && known.recording_worker_url == session.recording_worker_url;
        }
        Ok(self.put_finalized(session))
    }

    /// Keeps a session that is over, as its next revision.
    fn put_finalized(&mut self, mut session: Session) -> Outcome {
        let session_id = session.session_id;
        let known = self.world.sessions.get(&session_id);
        let has_checkpoint = known.is_some_and(|known| known.checkpoint_sequence.is_some());
        session.revision += 1;
        session.finalized_at = Some(self.world.now);
        self.put_session(session);
        self.join_session(session_id);
        self.tell_finalized(session_id);
        if has_checkpoint {
            self.world.checkpoints.remove(&session_id);
            self.changed_checkpoints.remove(&session_id);
            self.spent_checkpoints.insert(session_id);
        }
        Outcome::Finalized(session_id)
    }

    fn take_room(&mut self, room: &FinishedRoom) -> Outcome {
        if self.world.rooms.contains_key(&room.digest) {
            return Outcome::Duplicate(room.session_id);
        }
        let room = FinishedRoom { heard_at: self.world.now, ..room.clone() };
        self.plan.rooms.push(room.clone());
        let session_id = room.session_id;
        self.world.rooms.insert(room.digest, room);
        Outcome::Accepted(session_id)
    }

    fn take_silent(&mut self, session_id: Uuid, silence: Silence) -> Outcome {
        let Some(known) = self.world.sessions.get(&session_id).filter(|known| known.revision == 0)
        else {
            return Outcome::Duplicate(Some(session_id));
        };
        let room = room_of(session_id, self.world.rooms.values(), &self.world.sessions.values());
        if !silence.is_over(known, room) {
            return Outcome::Duplicate(Some(session_id));
        }
        let checkpoint = self.world.checkpoints.get(&session_id);
        self.put_finalized(abandon(known, checkpoint, room))
    }

    fn take_recording(&mut self, named: Option<Uuid>, report: &Egress) -> Outcome {
        let egress_id = report.egress_id.clone();
        let known = self.world.egresses.get(&egress_id).cloned();
        let mut row = match known.clone() {
            None => JoinedEgress::new(report.clone(), named),
            Some(known) => JoinedEgress {
                named_session_id: known.named_session_id.max(named),
                egress: merge_egress(known.egress.clone(), report.clone()),
                ..known
            },
        };
        let told_before = known.as_ref().and_then(|known| egress_outcome(&known.egress));
        let is_changed = known.as_ref() != Some(&row);
        if is_changed {
            self.changed_egresses.insert(egress_id.clone());
        }
        let moved_from = row.session_id;
        let is_moved = self.find_session(&mut row, None);
        let session_id = row.session_id;
        let told_now = egress_outcome(&row.egress);
        self.world.egresses.insert(egress_id.clone(), row);
        if let Some(left) = moved_from.filter(|_| is_moved) {
            self.settle(left);
        }
        if let Some(session_id) = session_id.filter(|_| is_moved || is_changed) {
            self.settle(session_id);
            if is_moved || told_before != told_now {
                self.tell_recording(session_id, &egress_id);
            }
        }
        if is_changed || is_moved {
            Outcome::Accepted(session_id)
        } else {
            Outcome::Duplicate(session_id)
        }
    }

    fn take_swept(&mut self, session_id: Uuid, finding: &Finding) -> Outcome {
        let egresses: Vec<Egress> = self.egresses_of(session_id).cloned().collect();
        let known = self.world.sessions.get_mut(&session_id);
        let Some(session) = known.filter(|session| finding.is_news(session)) else {
            return Outcome::Duplicate(Some(session_id));
        };
        let egress_id = match finding {
            Finding::Stored { .. } => {
                session.is_recording_found = true;
                None
            }
            Finding::GivenUp { .. } => {
                session.is_recording_given_up = true;
                awaited_egress(session, &egresses)
            }
        };
        self.changed_sessions.insert(session_id);
        self.settle(session_id);
        self.tell_outcome(finding.outcome(), session_id, egress_id.as_deref());
        Outcome::Accepted(Some(session_id))
    }

    /// Keeps a session that is new or has changed, as the latest version of itself.
    fn put_session(&mut self, mut session: Session) {
        if session.id == 0 {
            session.id = self.world.numbers.pop().expect("a number for each unknown session");
        }
        if self.changed_sessions.insert(session.session_id) {
            self.joinable_sessions.insert(session.session_id);
        }
        session.version += 1;
        self.world.sessions.insert(session.session_id, session);
    }

    /// A session has said something new of itself: which recordings are its own?
    fn join_session(&mut self, session_id: Uuid) {
        let session = &self.world.sessions[&session_id];
        let near = self.world.egresses.iter().filter(|(_, row)| row.may_concern(session));
        let waiting: Vec<String> = near.map(|(egress_id, _)| egress_id.clone()).collect();
        for egress_id in waiting {
            let Some(mut row) = self.world.egresses.get(&egress_id).cloned() else { continue };
            let left = row.session_id;
            let is_moved = self.find_session(&mut row, Some(session_id));
            let joined = row.session_id;
            // A stronger clue to the same session is news, too.
            self.world.egresses.insert(egress_id.clone(), row);
            if is_moved {
                for touched in [left, joined].into_iter().flatten().filter(|id| *id != session_id) {
                    self.settle(touched);
                    self.tell_recording(touched, &egress_id);
                }
            }
        }
        self.settle_quietly(session_id);
    }

    /// Looks for the session of a recording; true if it is another one than before.
    ///
    /// A stronger clue always wins. A room is a weak one: as long as the session it led to is
    /// still in progress, or is only now ending (`settling`), its time may yet turn out not to
    /// overlap, so it is looked for anew. Once the session is readable, it keeps its recording.
    fn find_session(&mut self, row: &mut JoinedEgress, settling: Option<Uuid>) -> bool {
        self.looked_at.insert(row.egress.egress_id.clone());
        let is_settled = |holder: &Uuid| {
            settling != Some(*holder)
                && self.world.sessions.get(holder).is_none_or(|session| session.revision > 0)
        };
        let is_open = !row.session_id.as_ref().is_some_and(is_settled);
        let is_by_room = row.joined_by.is_none_or(|known| known <= JoinedBy::RoomId);
        let found = best_match(&row.clues(), self.world.sessions.values());
        let is_better =
            found.is_some_and(|(_, clue)| row.joined_by.is_none_or(|known| clue > known));
        let may_change = is_better || (is_open && is_by_room);
        if !may_change {
            return false;
        }
        let (session_id, joined_by) = found.unzip();
        if (session_id, joined_by) == (row.session_id, row.joined_by) {
            return false;
        }
        self.changed_egresses.insert(row.egress.egress_id.clone());
        row.joined_by = joined_by;
        std::mem::replace(&mut row.session_id, session_id) != session_id
    }

    /// Works out a session's recording anew; a change is a new version.
    fn settle(&mut self, session_id: Uuid) {
        if self.settle_quietly(session_id)
            && let Some(session) = self.world.sessions.get_mut(&session_id)
        {
            session.version += 1;
            self.changed_sessions.insert(session_id);
        }
    }

    /// Works out a session's recording anew; true if it changed.
    fn settle_quietly(&mut self, session_id: Uuid) -> bool {
        let egresses: Vec<Egress> = self.egresses_of(session_id).cloned().collect();
        let Some(session) = self.world.sessions.get_mut(&session_id) else { return false };
        let recording = settle_recording(session, &egresses, self.world.place);
        std::mem::replace(&mut session.recording, recording.clone()) != recording
    }

    fn egresses_of(&self, session_id: Uuid) -> impl Iterator<Item = &Egress> {
        self.world
            .egresses
            .values()
            .filter(move |row| row.session_id == Some(session_id))
            .map(|row| &row.egress)
    }

    /// The session is readable: says so, and what is already known of its recordings.
    fn tell_finalized(&mut self, session_id: Uuid) {
        let revision = self.world.sessions[&session_id].revision;
        let key = MessageKey::Finalized { session_id, revision };
        self.tell(EventType::SessionFinalized, session_id, &key, None);
        let egress_ids: Vec<String> =
            self.egresses_of(session_id).map(|egress| egress.egress_id.clone()).collect();
        for egress_id in egress_ids {
            self.tell_recording(session_id, &egress_id);
        }
    }

    /// Says what became of a recording, if its session is readable and there is anything to say.
    fn tell_recording(&mut self, session_id: Uuid, egress_id: &str) {
        let row = &self.world.egresses[egress_id];
        let Some(outcome) = egress_outcome(&row.egress) else { return };
        let is_to_hear = self.world.sessions.get(&session_id).is_some_and(|session| {
            // Of a recording that was given up it is told already that it failed.
            let is_known = session.is_recording_given_up && outcome == EventType::RecordingFailed;
            session.revision > 0 && !is_known
        });
        if is_to_hear && row.session_id == Some(session_id) {
            self.tell_outcome(outcome, session_id, Some(egress_id));
        }
    }

    fn tell_outcome(&mut self, outcome: EventType, session_id: Uuid, egress_id: Option<&str>) {
        let key =
            MessageKey::Recording { session_id, egress_id: egress_id.unwrap_or_default(), outcome };
        self.tell(outcome, session_id, &key, egress_id);
    }

    fn tell(
        &mut self,
        event_type: EventType,
        session_id: Uuid,
        key: &MessageKey<'_>,
        egress_id: Option<&str>,
    ) {
        let message_id = MessageId::new(self.world.installation, key);
        if self.plan.messages.iter().any(|message| message.message_id == message_id) {
            return;
        }
        let session = &self.world.sessions[&session_id];
        let position = self.plan.messages.len();
        let mut owed = [false, false];
        for endpoint in self.world.endpoints {
            let (owner, tenant) = (session.character_owner, &session.tenant_id);
            if endpoint.hears(event_type, owner, tenant, &session.character_slug) {
                owed[usize::from(endpoint.payload == PayloadKind::Full)] = true;
                self.plan.deliveries.push(NewDelivery {
                    message: position,
                    endpoint_id: endpoint.endpoint_id,
                    owner: endpoint.owner,
                    payload: endpoint.payload,
                    is_cancelled: endpoint.disabled.is_some(),
                    is_limited: endpoint.rate_limit_per_minute.is_some(),
                });
            }
        }
        let at = match event_type {
            EventType::SessionFinalized => session.finalized_at.unwrap_or(self.world.now),
            _ => self.world.now,
        };
        let url = self.world.public_url;
        self.plan.messages.push(NewMessage {
            message_id,
            event_type,
            session_id: Some(session_id),
            session_number: Some(session.id),
            egress_id: egress_id.map(str::to_owned),
            thin: owed[0].then(|| thin_payload(event_type, at, session, egress_id, url)),
            full: owed[1].then(|| full_payload(event_type, at, session, egress_id, url)),
            trace: self.trace,
        });
    }

    fn finish(mut self) -> Plan {
        self.plan.joinable_sessions = self.joinable_sessions.into_iter().collect();
        let mut checkpoints = self.world.checkpoints;
        self.plan.checkpoints =
            self.changed_checkpoints.iter().filter_map(|id| checkpoints.remove(id)).collect();
        self.plan.spent_checkpoints = self.spent_checkpoints.into_iter().collect();
        let mut egresses: HashMap<_, _> = self.world.egresses.into_iter().collect();
        self.plan.unjoined_egresses = self
            .looked_at
            .into_iter()
            .filter(|id| egresses.get(id).is_some_and(|row| row.session_id.is_none()))
            .collect();
        self.plan.egresses = self
            .changed_egresses
            .iter()
            .filter_map(|id| egresses.remove(id))
            .map(|row| JoinedEgress { version: row.version + 1, ..row })
            .collect();
        let mut sessions = self.world.sessions;
        self.plan.sessions =
            self.changed_sessions.iter().filter_map(|id| sessions.remove(id)).collect();
        self.plan
    }
}

/// Whether the API shows two states of a call in progress alike.
fn looks_the_same(known: &Session, next: &Session) -> bool {
    let as_known = Session {
        digest: known.digest,
        heard_at: known.heard_at,
        checkpoint_sequence: known.checkpoint_sequence,
        ..next.clone()
    };
    as_known == *known
}

/// The session takes the place of what is known: it is the next revision, copies of the event that
/// made this one are duplicates from now on, and what was found out of a recording still stands if
/// the same one was asked for.
fn supersede(session: &mut Session, known: &Session) {
    session.revision = known.revision;
    session.superseded.clone_from(&known.superseded);
    session.superseded.push(known.digest);
    let asked = |of: &Session| {
        (of.recording_expected, of.recording_egress_id.clone(), of.recording_worker_url.clone())
    };
    if asked(session) == asked(known) {
        session.is_recording_given_up = known.is_recording_given_up;
    }
}

fn other_owner(event: &Session) -> Rejection {
    Rejection {
        session_id: Some(event.session_id),
        ..Rejection::at(
            FailureCode::ConflictingEvent,
            "/character_owner",
            "The session is known to belong to another character owner; send the owner it \
             started with, or a session_id of its own.",
        )
    }
}

fn other_content(event: &Session) -> Rejection {
    Rejection {
        session_id: Some(event.session_id),
        ..Rejection::new(
            FailureCode::ConflictingEvent,
            "The session is already finalized from an event with other content, and stays as it \
             is: give every call a session_id of its own, and send an event again as it was.",
        )
    }
}
