//! The pure merge: a batch is the same as its events one by one, and order does not matter.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use finalizer::event::{Digest, Event, decode};
use finalizer::finalize::{
    Change, Erased, Finding, FinishedRoom, JoinedEgress, NewMessage, Outcome, Plan, Prepared,
    PriceBook, Session, Snapshot, finalize, plan, start,
};
use finalizer::webhook::{Endpoint, EventType, PayloadKind};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{after, noon};

const STARTED: &str = include_str!("../../fixtures/events/started_no_speech.json");
const ENDED: &str = include_str!("../../fixtures/events/call_pipecat.json");
const RECORDING: &str = include_str!("../../fixtures/events/recording_complete.json");
/// How many calls there are, each of them over before the next.
const CALLS: u8 = 3;
const STATUSES: [&str; 6] = [
    "EGRESS_STARTING",
    "EGRESS_ACTIVE",
    "EGRESS_ENDING",
    "EGRESS_ABORTED",
    "EGRESS_FAILED",
    "EGRESS_COMPLETE",
];

/// An event of a small universe: three calls in one room, two recordings of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Told {
    /// A call began.
    Started { call: u8, variant: u8, owner: u8 },
    /// A call is over; the worker may know of an egress, or store a file itself.
    Ended { call: u8, variant: u8, owner: u8, recorded: Recorded },
    /// Something is known of a recording.
    Recording { call: u8, egress: u8, status: u8, updated: u8, named: Option<u8> },
    /// The sweep found the worker's file.
    Stored { call: u8 },
    /// The sweep waits no longer.
    GivenUp { call: u8 },
}

/// What the end of a call says of its recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Recorded {
    Unsaid,
    Expected,
    Egress(u8),
    Stored,
}

impl Told {
    /// Any event, by chance.
    pub(crate) fn any(bytes: [u8; 4]) -> Self {
        let [kind, call, choice, more] = bytes;
        let (call, variant) = (call % CALLS, choice % 2);
        // Now and then a call is said to be somebody else's.
        let owner = u8::from(more == 255);
        match kind % 8 {
            0 | 1 => Self::Started { call, variant, owner },
            2 | 3 => {
                let recorded = match choice / 2 % 5 {
                    0 => Recorded::Unsaid,
                    1 => Recorded::Expected,
                    2 => Recorded::Stored,
                    other => Recorded::Egress(other - 3),
                };
                Self::Ended { call, variant, owner, recorded }
            }
            4 => Self::Stored { call },
            5 => Self::GivenUp { call },
            _ => Self::Recording {
                call,
                egress: choice % 2,
                status: choice / 2 % 6,
                updated: more % 2,
                named: Some(more / 2 % (CALLS + 2)).filter(|named| *named < CALLS),
            },
        }
    }

    /// The same, unless it contradicts others: then what all of them agree on. What only an end
    /// makes true is an end here.
    fn agreeing(self) -> Self {
        match self {
            Self::Started { call, variant, .. } => Self::Started { call, variant, owner: 0 },
            Self::Ended { call, .. } | Self::Stored { call } | Self::GivenUp { call } => {
                Self::end_of(call)
            }
            Self::Recording { call, named, .. } => {
                let named = named.map(|_| call);
                let Self::Recording { egress, status, updated, .. } = self else { return self };
                Self::Recording { call, egress, status, updated, named }
            }
        }
    }

    fn end_of(call: u8) -> Self {
        let recorded = [Recorded::Egress(0), Recorded::Expected, Recorded::Unsaid];
        let recorded = recorded[usize::from(call % 3)];
        Self::Ended { call, variant: 0, owner: 0, recorded }
    }

    fn prepared(self) -> Prepared {
        thread_local! {
            static KNOWN: RefCell<HashMap<Told, Prepared>> = RefCell::default();
        }
        KNOWN.with_borrow_mut(|known| known.entry(self).or_insert_with(|| self.prepare()).clone())
    }

    fn prepare(self) -> Prepared {
        let swept = |number, finding| Change::Swept { session_id: call(number), finding };
        let change = match self {
            Self::GivenUp { call } => swept(call, Finding::GivenUp { finalized_by: noon() }),
            Self::Stored { call } => swept(call, Finding::Stored { url: own_url(call) }),
            _ => change(self.event().to_string().as_bytes()),
        };
        Prepared {
            trace: None,
            change: Ok(change),
            raw: Bytes::new(),
            source: "test".into(),
            event_id: Some("an id".to_owned()),
            event_type: None,
            headers: None,
            failure_id: Uuid::from_u128(1),
        }
    }

    fn event(self) -> Value {
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        match self {
            Self::Stored { .. } | Self::GivenUp { .. } => unreachable!("nobody tells it"),
            Self::Started { call: number, variant, owner } => {
                let mut event = read(STARTED);
                identify(&mut event, number, owner);
                event["origin_url"] = json!(format!("https://example.com/{variant}"));
                event
            }
            Self::Ended { call: number, variant, owner, recorded } => {
                let mut event = read(ENDED);
                identify(&mut event, number, owner);
                event["ended_at"] = json!(after(start_of(number) + 180));
                event["messages"] = json!([{
                    "role": "user", "text": format!("I say {variant}."),
                    "started_at": after(start_of(number)),
                }]);
                event["recording"] = match recorded {
                    Recorded::Unsaid => Value::Null,
                    Recorded::Expected => json!({"expected": true}),
                    Recorded::Egress(egress) => {
                        json!({"expected": true, "egress_id": egress_id(number, egress)})
                    }
                    Recorded::Stored => json!({"expected": true, "url": own_url(number)}),
                };
                event
            }
            Self::Recording { call: number, egress, status, updated, named } => {
                let nanoseconds = |seconds| after(seconds).timestamp_nanos_opt().unwrap();
                let mut event = read(RECORDING);
                event["session_id"] = json!(named.map(call));
                let info = &mut event["egress"];
                info["egressId"] = json!(egress_id(number, egress));
                info["status"] = json!(STATUSES[usize::from(status)]);
                info["roomId"] = Value::Null;
                info["roomName"] = json!("one-room-for-all");
                info["startedAt"] = json!(nanoseconds(start_of(number) + 5));
                info["endedAt"] = json!(nanoseconds(start_of(number) + 170));
                info["updatedAt"] = json!(nanoseconds(start_of(number) + 180 + i64::from(updated)));
                event
            }
        }
    }
}

fn call(number: u8) -> Uuid {
    Uuid::from_bytes([number; 16])
}

fn egress_id(call: u8, egress: u8) -> String {
    format!("EG_{call}_{egress}")
}

fn own_url(call: u8) -> String {
    format!("s3://own/{call}.mp4")
}

fn start_of(call: u8) -> i64 {
    i64::from(call) * 600
}

fn identify(event: &mut Value, number: u8, owner: u8) {
    event["session_id"] = json!(call(number));
    event["character_owner"] = json!(7 + owner);
    event["room_id"] = Value::Null;
    event["room_name"] = json!("one-room-for-all");
    event["started_at"] = json!(after(start_of(number)));
}

fn change(event: &[u8]) -> Change {
    match decode(event).unwrap() {
        Event::Started(started) => Change::Started(Box::new(start(&started))),
        Event::Ended(ended) => {
            Change::Ended(Box::new(finalize(&ended, &PriceBook::builtin()).unwrap()))
        }
        Event::Recording(updated) => Change::Recording {
            session_id: updated.session_id,
            egress: Box::new(updated.egress.clone()),
        },
        Event::Checkpoint(_) | Event::Room(_) => unreachable!("none of these is told"),
    }
}

/// One that hears of everything.
fn endpoint(payload: PayloadKind) -> Endpoint {
    Endpoint {
        endpoint_id: Uuid::nil(),
        owner: None,
        tenant_id: None,
        character_slug: None,
        event_types: Vec::new(),
        payload,
        url: "https://example.com/hook".to_owned(),
        sealed_secret: vec![1, 2, 3],
        sealed_headers: None,
        timeout_seconds: 15,
        rate_limit_per_minute: None,
        disabled: None,
        created_at: noon(),
        version: 1,
    }
}

/// A store that forgets nothing and is always there.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct World {
    pub(crate) sessions: BTreeMap<Uuid, Session>,
    egresses: BTreeMap<String, JoinedEgress>,
    pub(crate) checkpoints: BTreeMap<Uuid, Session>,
    rooms: BTreeMap<Digest, FinishedRoom>,
    pub(crate) messages: BTreeSet<(EventType, Uuid, Option<String>, [u8; 16])>,
    pub(crate) failures: usize,
}

impl World {
    pub(crate) fn take(&mut self, events: &[Prepared]) -> Vec<Outcome> {
        let endpoints = [endpoint(PayloadKind::Thin), endpoint(PayloadKind::Full)];
        let used = i64::try_from(self.sessions.len()).unwrap();
        let snapshot = Snapshot {
            now: noon(),
            installation: Uuid::nil(),
            public_url: "https://api.example.com",
            place: "s3://recordings",
            sessions: self.sessions.clone(),
            egresses: self.egresses.clone(),
            checkpoints: self.checkpoints.clone(),
            rooms: self.rooms.clone(),
            erased: &Erased::default(),
            numbers: (used + 1..used + 10).rev().collect(),
            endpoints: &endpoints,
        };
        let planned = plan(snapshot, events);
        let Plan { outcomes, sessions, egresses, messages, deliveries, failures, .. } = planned;
        assert_eq!(deliveries.len(), endpoints.len() * messages.len());
        assert_eq!(outcomes.len(), events.len());
        self.checkpoints.extend(planned.checkpoints.into_iter().map(|s| (s.session_id, s)));
        self.checkpoints.retain(|id, _| !planned.spent_checkpoints.contains(id));
        self.rooms.extend(planned.rooms.into_iter().map(|room| (room.digest, room)));
        self.sessions.extend(sessions.into_iter().map(|s| (s.session_id, s)));
        self.egresses.extend(egresses.into_iter().map(|e| (e.egress.egress_id.clone(), e)));
        for message in messages {
            self.tell(message);
        }
        self.failures += failures.len();
        outcomes
    }

    fn tell(&mut self, message: NewMessage) {
        let NewMessage { message_id, event_type, session_id, egress_id, .. } = message;
        let session_id = session_id.unwrap();
        assert!(self.sessions[&session_id].revision > 0, "only of what can be read it is told");
        let is_new = self.messages.insert((event_type, session_id, egress_id, message_id.0));
        // What is said of a recording again, when a call's end takes the place of what was made of
        // its silence, is the same message: stores keep it once.
        let may_repeat = event_type != EventType::SessionFinalized;
        assert!(is_new || may_repeat, "a revision is told once");
    }

    /// Without how often a recording's row was written: once a batch.
    pub(crate) fn unversioned(mut self) -> Self {
        self.egresses.values_mut().for_each(|row| row.version = 0);
        self
    }

    /// What must not depend on the order of the events.
    pub(crate) fn end_state(&self) -> (Vec<Session>, Vec<JoinedEgress>, Vec<Uuid>) {
        let sessions =
            self.sessions.values().map(|session| Session { id: 0, version: 0, ..session.clone() });
        let finalized = self
            .messages
            .iter()
            .filter(|(event_type, ..)| *event_type == EventType::SessionFinalized);
        (
            sessions.collect(),
            self.egresses.values().map(|row| JoinedEgress { version: 0, ..row.clone() }).collect(),
            finalized.map(|(_, session_id, ..)| *session_id).collect(),
        )
    }
}

/// Checks that a batch is the same as its events one by one, on top of any others.
pub(crate) fn check_batch(before: &[Told], told: &[Told]) {
    let prepare =
        |told: &[Told]| -> Vec<Prepared> { told.iter().map(|told| told.prepared()).collect() };
    let (before, batch) = (prepare(before), prepare(told));
    let mut together = World::default();
    together.take(&before);
    let mut alone = together.clone();
    let outcomes = together.take(&batch);
    let one_by_one: Vec<Outcome> =
        batch.iter().flat_map(|event| alone.take(std::slice::from_ref(event))).collect();
    assert_eq!(outcomes, one_by_one);
    assert_eq!(together.clone().unversioned(), alone.unversioned());
    let is_sweep = |told: &Told| matches!(told, Told::Stored { .. } | Told::GivenUp { .. });
    if !told.iter().any(is_sweep) {
        check_again(&together, &batch, &outcomes);
    }
}

/// Copies of what is taken have no effect. What the sweep finds is no event: it may come to have one.
fn check_again(world: &World, batch: &[Prepared], outcomes: &[Outcome]) {
    let mut again = world.clone();
    for (outcome, first) in again.take(batch).iter().zip(outcomes) {
        let is_repeated = matches!(outcome, Outcome::Finalized(_))
            || matches!((outcome, first), (Outcome::Failed { .. }, Outcome::Finalized(_)));
        assert!(!is_repeated, "what came once has no effect any more: {first:?}, {outcome:?}");
    }
    assert_eq!(again.messages, world.messages, "and nothing is told again");
}

/// Checks that events which do not contradict each other lead to one state, whatever their order:
/// as told, with the ends last, and in an order by chance, with the ends first.
pub(crate) fn check_orders(told: &[Told], chance: &[u8]) {
    let told: Vec<Told> = told.iter().map(|told| told.agreeing()).collect();
    let mut shuffled: Vec<(u8, usize)> =
        (0..told.len()).map(|index| (chance.get(index).copied().unwrap_or(0), index)).collect();
    shuffled.sort_unstable();
    // Without an end every call is open and overlaps the others for good.
    let ends = (0..CALLS).map(Told::end_of);
    let mut one = World::default();
    let everything: Vec<Prepared> =
        told.iter().copied().chain(ends.clone()).map(Told::prepared).collect();
    one.take(&everything);
    let mut other = World::default();
    for event in ends.chain(shuffled.into_iter().map(|(_, index)| told[index])) {
        other.take(&[event.prepared()]);
    }
    assert_eq!(one.end_state(), other.end_state());
    assert_eq!(one.failures, 0);
}
