//! The pure merge: a batch is the same as its events one by one, and order does not matter.

use chrono::TimeDelta;
use finalizer::finalize::{Change, Finding, Outcome, Prepared, Session, Silence};
use finalizer::webhook::EventType;
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::claims::merge::World;
use crate::claims::noon;
use crate::harness::{after, ended, prepared, recording, started};

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
    Checkpoint { call: u8, sequence: u8, variant: u8 },
    Room { call: u8, is_named: bool },
    Silent { call: u8, is_long: bool },
}

impl Told {
    fn prepared(self) -> Prepared {
        let change = match self {
            Self::GivenUp { call: number } => {
                let finding = Finding::GivenUp { finalized_by: noon() };
                Change::Swept { session_id: call(number), finding }
            }
            Self::Silent { call: number, is_long } => {
                let since = if is_long { noon() } else { noon() - TimeDelta::hours(1) };
                let silence = Silence { since, since_room: noon() };
                Change::Silent { session_id: call(number), silence }
            }
            _ => return prepared(&self.event()),
        };
        Prepared { change: Ok(change), ..prepared(&json!({})) }
    }

    fn event(self) -> Value {
        match self {
            Self::GivenUp { .. } | Self::Silent { .. } => unreachable!("nobody tells it"),
            Self::Checkpoint { call, sequence, variant } => {
                let mut event = Self::Ended { call, variant }.event();
                event["type"] = json!("session.checkpoint");
                event["sequence"] = json!(sequence);
                event["origin_url"] = json!(format!("https://example.com/{variant}"));
                event.as_object_mut().unwrap().remove("ended_at");
                event
            }
            Self::Room { call: number, is_named } => {
                let mut event = json!({
                    "type": "room.finished", "schema_version": 1, "event_id": "room",
                    "room_name": "one-room-for-all",
                    "occurred_at": after(i64::from(number) * 600 + 300),
                });
                if is_named {
                    event["session_id"] = json!(call(number));
                }
                event
            }
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
        unfinished(),
        (0..2_u8, any::<bool>()).prop_map(|(call, is_long)| Told::Silent { call, is_long }),
    ]
}

/// What is told of a call that nobody ends.
fn unfinished() -> impl Strategy<Value = Told> {
    prop_oneof![
        (0..2_u8, 0..2_u8).prop_map(|(call, variant)| Told::Started { call, variant }),
        (0..2_u8, 0..3_u8, 0..2_u8).prop_map(|(call, sequence, variant)| Told::Checkpoint {
            call,
            sequence,
            variant
        }),
        (0..2_u8, any::<bool>()).prop_map(|(call, is_named)| Told::Room { call, is_named }),
    ]
}

/// Anything but two different ends of one call, and what only an end makes true.
fn agreeing() -> impl Strategy<Value = Told> {
    anything().prop_map(|told| match told {
        Told::Ended { call, .. } | Told::GivenUp { call } | Told::Silent { call, .. } => {
            Told::Ended { call, variant: 0 }
        }
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

    #[test]
    fn a_call_that_nobody_ends_comes_to_the_same_in_any_order(
        (told, shuffled) in proptest::collection::vec(unfinished(), 0..10)
            .prop_flat_map(|told| (Just(told.clone()), Just(told).prop_shuffle())),
        batch_size in 1..4_usize,
    ) {
        let silences = [false, true].into_iter().flat_map(|is_long| {
            (0..2_u8).map(move |call| Told::Silent { call, is_long })
        });
        let prepare = |told: &[Told]| -> Vec<Prepared> {
            told.iter().map(|told| told.prepared()).collect()
        };
        let (mut one, mut other) = (World::default(), World::default());
        one.take(&prepare(&told));
        for batch in prepare(&shuffled).chunks(batch_size) {
            other.take(batch);
        }
        prop_assert_eq!(one.end_state(), other.end_state());
        for silence in silences {
            for world in [&mut one, &mut other] {
                world.take(&[silence.prepared()]);
            }
            prop_assert_eq!(one.end_state(), other.end_state());
        }
        prop_assert!(one.checkpoints.is_empty(), "a call that is over needs none");
        prop_assert!(one.sessions.values().all(Session::is_provisional));
    }

    #[test]
    fn the_end_of_a_call_wins_whenever_it_comes(
        told in proptest::collection::vec(anything(), 0..12),
        place in 0..13_usize,
        batch_size in 1..4_usize,
    ) {
        let without_ends = |told: Told| match told {
            Told::Ended { call, .. } => Told::Silent { call, is_long: true },
            other => other,
        };
        let mut all: Vec<Told> = told.into_iter().map(without_ends).collect();
        all.insert(place.min(all.len()), Told::Ended { call: 0, variant: 0 });
        let events: Vec<Prepared> = all.iter().map(|told| told.prepared()).collect();
        let mut world = World::default();
        for batch in events.chunks(batch_size) {
            world.take(batch);
        }
        let Ok(Change::Ended(expected)) = (Told::Ended { call: 0, variant: 0 }).prepared().change
        else {
            panic!("it ends the call")
        };
        let found = &world.sessions[&call(0)];
        prop_assert!(matches!(found.revision, 1 | 2));
        let stated = Session {
            id: found.id,
            revision: found.revision,
            version: found.version,
            finalized_at: Some(noon()),
            recording: found.recording.clone(),
            is_recording_given_up: found.is_recording_given_up,
            ..*expected
        };
        prop_assert_eq!(found, &stated);
        prop_assert_eq!(world.failures, 0);
        prop_assert!(!world.checkpoints.contains_key(&call(0)));
        let revisions = world.messages.iter().filter(|(event_type, session_id, ..)| {
            (*event_type, *session_id) == (EventType::SessionFinalized, call(0))
        });
        prop_assert_eq!(revisions.count(), usize::try_from(found.revision).unwrap());
    }
}
