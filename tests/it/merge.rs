//! The pure merge: a batch is the same as its events one by one, and order does not matter.

use std::collections::{BTreeMap, BTreeSet};

use finalizer::finalize::{
    Change, Finding, JoinedEgress, Outcome, Plan, Prepared, Session, Snapshot, plan,
};
use finalizer::webhook::EventType;
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{after, ended, endpoint, noon, prepared, recording, started};

/// A store that forgets nothing and is always there.
#[derive(Debug, Default, Clone, PartialEq)]
struct World {
    sessions: BTreeMap<Uuid, Session>,
    egresses: BTreeMap<String, JoinedEgress>,
    messages: BTreeSet<(EventType, Uuid, Option<String>)>,
    failures: usize,
}

impl World {
    fn take(&mut self, events: &[Prepared]) -> Vec<Outcome> {
        let endpoints = [endpoint()];
        let used = i64::try_from(self.sessions.len()).unwrap();
        let snapshot = Snapshot {
            now: noon(),
            installation: Uuid::nil(),
            public_url: "https://api.example.com",
            place: "s3://recordings",
            sessions: self.sessions.clone(),
            egresses: self.egresses.clone(),
            numbers: (used + 1..used + 10).rev().collect(),
            endpoints: &endpoints,
        };
        let Plan { outcomes, sessions, egresses, messages, deliveries, failures, .. } =
            plan(snapshot, events);
        assert_eq!(deliveries.len(), messages.len());
        self.sessions.extend(sessions.into_iter().map(|s| (s.session_id, s)));
        self.egresses.extend(egresses.into_iter().map(|e| (e.egress.egress_id.clone(), e)));
        for message in messages {
            let is_new = self.messages.insert((
                message.event_type,
                message.session_id.unwrap(),
                message.egress_id,
            ));
            assert!(is_new, "a message is told once");
        }
        self.failures += failures.len();
        outcomes
    }

    /// Without how often a recording's row was written: once a batch.
    fn unversioned(mut self) -> Self {
        self.egresses.values_mut().for_each(|row| row.version = 0);
        self
    }

    /// What must not depend on the order of the events.
    fn end_state(&self) -> (Vec<Session>, Vec<JoinedEgress>, Vec<Uuid>) {
        let sessions =
            self.sessions.values().map(|session| Session { id: 0, version: 0, ..session.clone() });
        let finalized = self
            .messages
            .iter()
            .filter(|(event_type, ..)| *event_type == EventType::SessionFinalized);
        (
            sessions.collect(),
            self.egresses.values().map(|row| JoinedEgress { version: 0, ..row.clone() }).collect(),
            finalized.map(|(_, session_id, _)| *session_id).collect(),
        )
    }
}

fn call(number: u8) -> Uuid {
    Uuid::from_bytes([number; 16])
}

/// An event of a small universe: two calls, two recordings.
#[derive(Debug, Clone, Copy)]
enum Told {
    Started { call: u8, variant: u8 },
    Ended { call: u8, variant: u8 },
    Recording { call: u8, egress: u8, status: u8, is_named: bool },
    GivenUp { call: u8 },
}

impl Told {
    fn prepared(self) -> Prepared {
        let Self::GivenUp { call: number } = self else { return prepared(&self.event()) };
        let finding = Finding::GivenUp { finalized_by: noon() };
        let change = Change::Swept { session_id: call(number), finding };
        Prepared { change: Ok(change), ..prepared(&json!({})) }
    }

    fn event(self) -> Value {
        match self {
            Self::GivenUp { .. } => unreachable!("nobody tells it"),
            Self::Started { call: number, variant } => {
                let mut event = started(call(number));
                event["origin_url"] = json!(format!("https://example.com/{variant}"));
                event["started_at"] = json!(after(i64::from(number) * 600));
                event
            }
            Self::Ended { call: number, variant } => {
                let start = i64::from(number) * 600;
                let mut event = ended(call(number));
                event["room_name"] = json!("one-room-for-all");
                event["started_at"] = json!(after(start));
                event["ended_at"] = json!(after(start + 180));
                event["messages"] = json!([
                    {"role": "user", "text": format!("I say {variant}."), "started_at": after(start)}
                ]);
                event
            }
            Self::Recording { call: number, egress, status, is_named } => {
                let start = after(i64::from(number) * 600 + 5).timestamp_nanos_opt().unwrap();
                let end = after(i64::from(number) * 600 + 170).timestamp_nanos_opt().unwrap();
                let statuses =
                    ["EGRESS_ACTIVE", "EGRESS_ENDING", "EGRESS_FAILED", "EGRESS_COMPLETE"];
                let status = statuses[usize::from(status)];
                let id = format!("EG_{number}_{egress}");
                let mut event = recording(call(number), &id, status);
                event["egress"]["roomName"] = json!("one-room-for-all");
                event["egress"]["startedAt"] = json!(start);
                event["egress"]["endedAt"] = json!(end);
                if is_named {
                    event["session_id"] = json!(call(number));
                }
                event
            }
        }
    }
}

fn anything() -> impl Strategy<Value = Told> {
    prop_oneof![
        (0..2_u8, 0..2_u8).prop_map(|(call, variant)| Told::Started { call, variant }),
        (0..2_u8, 0..2_u8).prop_map(|(call, variant)| Told::Ended { call, variant }),
        (0..2_u8, 0..2_u8, 0..4_u8, any::<bool>()).prop_map(|(call, egress, status, is_named)| {
            Told::Recording { call, egress, status, is_named }
        }),
        (0..2_u8).prop_map(|call| Told::GivenUp { call }),
    ]
}

/// Anything but two different ends of one call, and what only an end makes true.
fn agreeing() -> impl Strategy<Value = Told> {
    anything().prop_map(|told| match told {
        Told::Ended { call, .. } | Told::GivenUp { call } => Told::Ended { call, variant: 0 },
        other => other,
    })
}

proptest! {
    #[test]
    fn a_batch_is_the_same_as_its_events_one_by_one(
        before in proptest::collection::vec(anything(), 0..4),
        batch in proptest::collection::vec(anything(), 0..12),
    ) {
        let prepare = |told: &[Told]| -> Vec<Prepared> {
            told.iter().map(|told| told.prepared()).collect()
        };
        let (before, batch) = (prepare(&before), prepare(&batch));
        let mut together = World::default();
        together.take(&before);
        let mut alone = together.clone();
        let outcomes = together.take(&batch);
        let one_by_one: Vec<Outcome> =
            batch.iter().flat_map(|event| alone.take(std::slice::from_ref(event))).collect();
        prop_assert_eq!(outcomes, one_by_one);
        prop_assert_eq!(together.unversioned(), alone.unversioned());
    }

    #[test]
    fn all_orders_agree_unless_two_different_ends_meet(
        (told, shuffled) in proptest::collection::vec(agreeing(), 0..10)
            .prop_flat_map(|told| (Just(told.clone()), Just(told).prop_shuffle())),
    ) {
        // Without an end every call is open and overlaps the others for good.
        let ends = [Told::Ended { call: 0, variant: 0 }, Told::Ended { call: 1, variant: 0 }];
        let everything = |told: &[Told], ends: &[Told]| -> Vec<Prepared> {
            told.iter().chain(ends).map(|told| told.prepared()).collect()
        };
        let mut one = World::default();
        one.take(&everything(&told, &ends));
        let mut other = World::default();
        for event in everything(&ends, &shuffled) {
            other.take(&[event]);
        }
        prop_assert_eq!(one.end_state(), other.end_state());
        prop_assert_eq!(one.failures, 0);
    }
}
