//! Calls whose worker died, on both databases: what it said so far, the room that was closed, the
//! silence, and the real end that may still come.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use finalizer::clock::Clock;
use finalizer::courier::{Client, ClientOptions, Courier, CourierParts, Guard, LONGEST_ATTEMPT};
use finalizer::event::FailureCode;
use finalizer::finalize::{Change, Outcome, PriceBook, RecordingStatus, Session, Silence};
use finalizer::intake::amqp::{self, AmqpSettings, HOLD_AT_MOST};
use finalizer::intake::{
    Intake, IntakeParts, IntakeWatch, NoDesk, Patience, RawEvent, Replayer, SilenceParts,
    SilenceSweep, WatchParts,
};
use finalizer::store::{FailureFilter, IntakeState};
use finalizer::webhook::EventType;
use http::StatusCode;
use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::api::{Api, PUBLIC_URL};
use crate::api_livekit::{CONTENT_TYPE, post, signed};
use crate::harness::broker::{Broker, QUEUE};
use crate::harness::receiver::Receiver;
use crate::harness::service::{Site, keyring, subscription};
use crate::harness::{
    TestDesk, TestStore, after, bytes_of, ended, endpoint, fresh_id, noon, on_both_stores,
    prepared, recording, started, until,
};
use crate::recordings::sample;

on_both_stores![
    a_checkpoint_makes_a_session_visible_and_shows_nothing_of_the_call,
    only_the_newest_checkpoint_is_kept_and_nothing_that_is_no_turn,
    another_owners_checkpoint_is_a_failure,
    a_call_whose_room_was_closed_is_given_up_after_a_quarter_of_an_hour,
    a_call_that_is_silent_for_long_is_given_up,
    starts_checkpoints_and_rooms_come_to_the_same_in_any_order,
    the_end_of_a_call_takes_the_place_of_what_was_made_of_its_silence,
    another_owner_does_not_end_a_call_that_was_given_up,
    what_comes_after_a_call_was_given_up_and_is_no_end_changes_nothing,
    a_room_of_two_calls_ends_neither_and_a_room_that_was_closed_before_a_call_not_at_all,
    calls_that_may_not_be_over_do_not_stand_in_the_way_of_others,
    sweeps_at_once_and_the_real_end_make_one_session,
    a_recording_of_a_call_that_was_given_up_has_its_rules,
    closed_rooms_are_forgotten_after_seven_days,
    while_events_may_be_waiting_no_call_is_given_up,
    a_process_that_is_held_up_or_behind_has_not_kept_up,
    who_says_that_it_has_caught_up_has_taken_what_was_waiting,
    a_call_whose_worker_died_is_told_and_then_told_again_with_its_real_end,
    the_running_service_keeps_up_with_its_queue_and_gives_up_silent_calls,
];

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

/// What a worker says of a call so far: so many of its turns.
fn checkpoint(session_id: Uuid, sequence: i64) -> Value {
    let mut event = ended(session_id);
    event["type"] = json!("session.checkpoint");
    event["sequence"] = json!(sequence);
    event.as_object_mut().unwrap().remove("ended_at");
    let turns = (0..sequence).map(|turn| {
        json!({"role": if turn % 2 == 0 { "assistant" } else { "user" },
               "text": format!("Turn {turn}."), "started_at": after(10 * turn + 1)})
    });
    let unheard = json!({"role": "system", "text": "You are a secret.", "started_at": after(0)});
    event["messages"] = turns.chain([unheard]).collect();
    event
}

/// `room.finished` of that call, so many seconds after it began.
fn room(session_id: Uuid, seconds: i64) -> Value {
    json!({
        "type": "room.finished", "schema_version": 1, "event_id": fresh_id(),
        "occurred_at": after(seconds), "room_name": format!("room-{session_id}"),
    })
}

async fn a_checkpoint_makes_a_session_visible_and_shows_nothing_of_the_call(test: TestStore) {
    let [unknown, known] = [fresh_id(), fresh_id()];
    test.take(&[started(known)]).await;
    let before = read(&test, known).await;
    for session_id in [unknown, known] {
        let taken = test.take(&[checkpoint(session_id, 2)]).await;
        assert_eq!(taken.outcomes, [Outcome::Accepted(Some(session_id))]);
        let shown = Session { session_id: known, room_name: None, ..read(&test, session_id).await };
        let expected = Session {
            id: shown.id,
            room_name: None,
            digest: shown.digest,
            checkpoint_sequence: Some(2),
            ..before.clone()
        };
        assert_eq!(shown, expected);
    }
    let mut other = checkpoint(known, 3);
    other["origin_url"] = json!("https://example.com/");
    test.take(&[other]).await;
    let changed = read(&test, known).await;
    assert_eq!(changed.origin_url.as_deref(), Some("https://example.com/"));
    assert_eq!((changed.version, changed.turn_count), (before.version + 1, 0));
    let taken = test.take(&[started(known)]).await;
    assert_eq!(taken.outcomes, [Outcome::Duplicate(Some(known))], "a start knows less");
    assert_eq!(read(&test, known).await, changed);
}

async fn only_the_newest_checkpoint_is_kept_and_nothing_that_is_no_turn(test: TestStore) {
    let session_id = fresh_id();
    let outcomes = async |sequence| test.take(&[checkpoint(session_id, sequence)]).await.outcomes;
    let [accepted, duplicate] =
        [Outcome::Accepted(Some(session_id)), Outcome::Duplicate(Some(session_id))];
    for (sequence, outcome) in [
        (3, &accepted),
        (3, &duplicate),
        (2, &duplicate),
        (0, &duplicate),
        (5, &accepted),
        (4, &duplicate),
    ] {
        assert_eq!(outcomes(sequence).await, std::slice::from_ref(outcome), "{sequence}");
    }
    let kept = checkpoints(&test).await;
    assert_eq!(kept.len(), 1);
    assert!(kept[0].contains("Turn 4.") && !kept[0].contains("secret"), "{kept:?}");
    let taken = test.take(&[ended(session_id)]).await;
    assert_eq!(taken.outcomes, [Outcome::Finalized(session_id)]);
    assert_eq!(checkpoints(&test).await, [""; 0], "a call that is over needs none");
    let finalized = read(&test, session_id).await;
    assert_eq!((finalized.turn_count, finalized.checkpoint_sequence), (2, None));
    assert_eq!(outcomes(6).await, [duplicate]);
    assert_eq!(read(&test, session_id).await, finalized);
    assert_eq!(checkpoints(&test).await, [""; 0]);
}

async fn another_owners_checkpoint_is_a_failure(test: TestStore) {
    let session_id = fresh_id();
    test.take(&[started(session_id)]).await;
    let before = read(&test, session_id).await;
    let mut other = checkpoint(session_id, 1);
    other["character_owner"] = json!(8);
    assert_conflict(&test.take(&[other]).await.outcomes[0], Some("/character_owner"));
    assert_eq!(read(&test, session_id).await, before);
}

async fn a_call_whose_room_was_closed_is_given_up_after_a_quarter_of_an_hour(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let session_id = fresh_id();
    let sweeper = Sweeper::new(&test);
    take_at(&test, 0, &[started(session_id)]).await;
    for sequence in 1..4 {
        take_at(&test, 20 * sequence, &[checkpoint(session_id, sequence)]).await;
    }
    take_at(&test, 90, &[room(session_id, 85)]).await;
    take_at(&test, 200, &[room(session_id, 85)]).await;
    assert_eq!(sweeper.sweep_at(90 + 15 * MINUTE - 1).await, 0);
    assert_eq!(read(&test, session_id).await.revision, 0);
    assert_eq!(sweeper.sweep_at(90 + 15 * MINUTE).await, 1);
    let session = read(&test, session_id).await;
    assert_eq!(session.close_reason.as_deref(), Some("abandoned"));
    assert_eq!((session.revision, session.turn_count), (1, 3));
    assert_eq!((session.duration_ms, session.ended_at), (85_000, Some(after(85))));
    assert_eq!(session.finalized_at, Some(after(90 + 15 * MINUTE)));
    assert_eq!(session.llm_input_tokens, 1840);
    assert!(session.cost_micros > 0 && session.transcript.contains("Turn 2."), "{session:?}");
    assert_eq!(checkpoints(&test).await, [""; 0]);
    assert_eq!(told_of(&test, session_id).await, [EventType::SessionFinalized]);
    assert_eq!(sweeper.sweep_at(90 + 60 * MINUTE).await, 0);
    assert_eq!(read(&test, session_id).await, session);
}

async fn a_call_that_is_silent_for_long_is_given_up(test: TestStore) {
    let [unsaid, said, heard] = [fresh_id(), fresh_id(), fresh_id()];
    let sweeper = Sweeper::new(&test);
    take_at(&test, 0, &[started(unsaid), checkpoint(said, 2), started(heard)]).await;
    take_at(&test, HOUR, &[checkpoint(heard, 1)]).await;
    take_at(&test, 2 * HOUR, &[started(unsaid), checkpoint(said, 1)]).await;
    assert_eq!(sweeper.sweep_at(6 * HOUR - 1).await, 0);
    assert_eq!(sweeper.sweep_at(6 * HOUR).await, 2);
    let unsaid = read(&test, unsaid).await;
    assert_eq!(unsaid.close_reason.as_deref(), Some("abandoned"));
    assert_eq!((unsaid.revision, unsaid.turn_count, unsaid.cost_micros), (1, 0, 0));
    assert_eq!((unsaid.duration_ms, unsaid.ended_at), (0, Some(noon())));
    let said = read(&test, said).await;
    assert_eq!((said.turn_count, said.duration_ms), (2, 11_000), "until the last turn");
    assert_eq!(read(&test, heard).await.revision, 0);
    assert_eq!(sweeper.sweep_at(7 * HOUR).await, 1);
    assert_eq!(read(&test, heard).await.turn_count, 1);
}

async fn starts_checkpoints_and_rooms_come_to_the_same_in_any_order(test: TestStore) {
    let sweeper = Sweeper::new(&test);
    let mut ends = BTreeSet::new();
    for order in permutations(5) {
        let session_id = fresh_id();
        let mut other_start = started(session_id);
        other_start["origin_url"] = json!("https://example.com/other");
        let events = [
            started(session_id),
            other_start,
            checkpoint(session_id, 1),
            checkpoint(session_id, 2),
            room(session_id, 30),
        ];
        // Alone, by twos, and all in one batch.
        let ordered: Vec<Value> = order.iter().map(|place| events[*place].clone()).collect();
        let batch_size = [1, 2, 5][(order[0] + order[1]) % 3];
        for batch in ordered.chunks(batch_size) {
            take_at(&test, 0, batch).await;
        }
        assert_eq!(sweeper.sweep_at(15 * MINUTE).await, 1, "{order:?}");
        let session = read(&test, session_id).await;
        let content = (
            (session.turn_count, session.transcript, session.duration_ms, session.close_reason),
            (session.origin_url, session.llm_output_tokens, session.revision, session.ended_at),
        );
        ends.insert(format!("{content:?}"));
    }
    assert_eq!(ends.len(), 1, "{ends:#?}");
}

async fn the_end_of_a_call_takes_the_place_of_what_was_made_of_its_silence(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let session_id = fresh_id();
    take_at(&test, 0, &[started(session_id), checkpoint(session_id, 1)]).await;
    Sweeper::new(&test).sweep_at(6 * HOUR).await;
    let given_up = read(&test, session_id).await;
    let end = ended(session_id);
    let taken = take_at(&test, 7 * HOUR, std::slice::from_ref(&end)).await;
    assert_eq!(taken, [Outcome::Finalized(session_id)]);
    let session = read(&test, session_id).await;
    assert_eq!((session.revision, session.turn_count, &session.close_reason), (2, 2, &None));
    assert_eq!((session.finalized_at, session.id), (Some(after(7 * HOUR)), given_up.id));
    assert_eq!((session.duration_ms, session.version), (180_000, given_up.version + 1));
    let told = [EventType::SessionFinalized, EventType::SessionFinalized];
    assert_eq!(told_of(&test, session_id).await, told);
    let copy = take_at(&test, 8 * HOUR, std::slice::from_ref(&end)).await;
    assert_eq!(copy, [Outcome::Duplicate(Some(session_id))]);
    let mut other = end;
    other["messages"][0]["text"] = json!("Something else.");
    assert_conflict(&take_at(&test, 8 * HOUR, &[other]).await[0], None);
    assert_eq!(read(&test, session_id).await, session);
}

async fn another_owner_does_not_end_a_call_that_was_given_up(test: TestStore) {
    let session_id = fresh_id();
    take_at(&test, 0, &[started(session_id)]).await;
    Sweeper::new(&test).sweep_at(6 * HOUR).await;
    let given_up = read(&test, session_id).await;
    let mut other = ended(session_id);
    other["character_owner"] = json!(8);
    assert_conflict(&take_at(&test, 7 * HOUR, &[other]).await[0], Some("/character_owner"));
    assert_eq!(read(&test, session_id).await, given_up);
}

async fn what_comes_after_a_call_was_given_up_and_is_no_end_changes_nothing(test: TestStore) {
    let session_id = fresh_id();
    take_at(&test, 0, &[checkpoint(session_id, 1)]).await;
    let sweeper = Sweeper::new(&test);
    sweeper.sweep_at(6 * HOUR).await;
    let given_up = read(&test, session_id).await;
    assert_eq!(given_up.revision, 1);
    let late = [checkpoint(session_id, 9), started(session_id), room(session_id, 500)];
    take_at(&test, 7 * HOUR, &late).await;
    assert_eq!(sweeper.sweep_at(24 * HOUR).await, 0);
    assert_eq!(read(&test, session_id).await, given_up);
    assert_eq!(checkpoints(&test).await, [""; 0]);
}

async fn a_room_of_two_calls_ends_neither_and_a_room_that_was_closed_before_a_call_not_at_all(
    test: TestStore,
) {
    let [one, other, later, by_id, named] =
        [fresh_id(), fresh_id(), fresh_id(), fresh_id(), fresh_id()];
    let in_room = |session_id: Uuid, name: &str, seconds: i64| {
        let mut event = started(session_id);
        event["room_name"] = json!(name);
        event["started_at"] = json!(after(seconds));
        event
    };
    let mut with_id = in_room(by_id, "reused", 0);
    with_id["room_id"] = json!("RM_mine");
    let calls = [in_room(one, "shared", 0), in_room(other, "shared", 0), with_id];
    take_at(&test, 0, &calls).await;
    take_at(&test, 0, &[in_room(later, "early", 300), in_room(named, "elsewhere", 0)]).await;
    let closed = |name: Option<&str>, id: Option<&str>, session: Option<Uuid>| {
        json!({"type": "room.finished", "schema_version": 1, "event_id": "e",
               "occurred_at": after(200), "room_name": name, "room_id": id, "session_id": session})
    };
    let rooms = [
        closed(Some("shared"), None, None),
        closed(Some("early"), None, None),
        closed(Some("reused"), Some("RM_another"), None),
        closed(Some("unknown"), None, Some(named)),
    ];
    take_at(&test, 300, &rooms).await;
    let sweeper = Sweeper::new(&test);
    assert_eq!(sweeper.sweep_at(HOUR).await, 1);
    assert_eq!(read(&test, named).await.duration_ms, 200_000);
    take_at(&test, HOUR, &[closed(None, Some("RM_mine"), None)]).await;
    assert_eq!(sweeper.sweep_at(2 * HOUR).await, 1);
    assert_eq!(read(&test, by_id).await.duration_ms, 200_000);
    // With one of the two gone before the room was closed, it was the other's.
    let mut end = ended(one);
    end["room_name"] = json!("shared");
    take_at(&test, 2 * HOUR, &[end]).await;
    assert_eq!(sweeper.sweep_at(2 * HOUR + 1).await, 1);
    assert_eq!(read(&test, other).await.duration_ms, 200_000);
    assert_eq!(sweeper.sweep_at(6 * HOUR).await, 1);
    assert_eq!(read(&test, later).await.duration_ms, 0);
}

async fn calls_that_may_not_be_over_do_not_stand_in_the_way_of_others(test: TestStore) {
    let shared: Vec<Uuid> = (0..240).map(|_| fresh_id()).collect();
    let events = shared.iter().map(|session_id| {
        let mut event = started(*session_id);
        event["room_name"] = json!("shared");
        event
    });
    take_at(&test, 0, &events.collect::<Vec<_>>()).await;
    let session_id = fresh_id();
    let mut closed = room(session_id, 200);
    closed["room_name"] = json!("shared");
    take_at(&test, 1, &[started(session_id), room(session_id, 30), closed]).await;
    let sweeper = Sweeper::new(&test);
    assert_eq!(sweeper.sweep_at(HOUR).await, 1);
    assert_eq!(read(&test, session_id).await.revision, 1);
    assert_eq!(sweeper.sweep_at(6 * HOUR).await, 240);
}

async fn sweeps_at_once_and_the_real_end_make_one_session(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let sessions: Vec<Uuid> = (0..150).map(|_| fresh_id()).collect();
    let all = |event: fn(Uuid) -> Value| sessions.iter().copied().map(event).collect::<Vec<_>>();
    take_at(&test, 0, &all(|session_id| checkpoint(session_id, 1))).await;
    let (one, other) = (Sweeper::new(&test), Sweeper::new(&test));
    let ends = all(ended);
    let ending = async {
        for batch in ends[..100].chunks(20) {
            take_at(&test, 6 * HOUR, batch).await;
        }
    };
    let (found, found_too, ()) =
        tokio::join!(one.sweep_at(6 * HOUR), other.sweep_at(6 * HOUR), ending);
    assert!((50..=150).contains(&(found + found_too)), "{found} and {found_too}");
    for (number, session_id) in sessions.iter().enumerate() {
        let session = read(&test, *session_id).await;
        let is_ended = number < 100;
        assert_eq!(session.close_reason.is_none(), is_ended);
        assert_eq!(session.turn_count, if is_ended { 2 } else { 1 });
        let told = told_of(&test, *session_id).await.len();
        assert_eq!(told, usize::try_from(session.revision).unwrap(), "once a revision");
        assert!(is_ended || session.revision == 1);
    }
    assert_eq!(checkpoints(&test).await, [""; 0]);
}

async fn a_recording_of_a_call_that_was_given_up_has_its_rules(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let session_id = fresh_id();
    let mut with_recording = checkpoint(session_id, 1);
    with_recording["recording"] = json!({"expected": true, "egress_id": "EG_1"});
    take_at(&test, 0, &[with_recording]).await;
    assert_eq!(read(&test, session_id).await.recording.status, RecordingStatus::None);
    Sweeper::new(&test).sweep_at(6 * HOUR).await;
    assert_eq!(read(&test, session_id).await.recording.status, RecordingStatus::Pending);
    take_at(&test, 6 * HOUR, &[recording(session_id, "EG_1", "EGRESS_COMPLETE")]).await;
    assert_eq!(read(&test, session_id).await.recording.status, RecordingStatus::Ready);
    let mut end = ended(session_id);
    end["recording"] = json!({"expected": true, "egress_id": "EG_1"});
    take_at(&test, 7 * HOUR, &[end]).await;
    let session = read(&test, session_id).await;
    assert_eq!((session.recording.status, session.revision), (RecordingStatus::Ready, 2));
    let mut told = told_of(&test, session_id).await;
    told.retain(|event_type| *event_type != EventType::SessionFinalized);
    assert_eq!(told, [EventType::RecordingReady], "it is ready once");
}

async fn closed_rooms_are_forgotten_after_seven_days(test: TestStore) {
    let [early, late] = [fresh_id(), fresh_id()];
    take_at(&test, 0, &[room(early, 60), room(late, 60)]).await;
    let sweeper = Sweeper::new(&test);
    let week = 7 * 24 * HOUR;
    sweeper.sweep_at(week - 1).await;
    assert_eq!(take_at(&test, week, &[room(late, 60)]).await, [Outcome::Duplicate(None)]);
    take_at(&test, week, &[started(late)]).await;
    assert_eq!(sweeper.sweep_at(week - 1 + 15 * MINUTE).await, 0, "not heard for long enough");
    take_at(&test, week, &[started(early)]).await;
    // The rooms go first.
    assert_eq!(sweeper.sweep_at(week + 15 * MINUTE).await, 0);
    assert_eq!(take_at(&test, week, &[room(late, 60)]).await, [Outcome::Accepted(None)]);
}

async fn while_events_may_be_waiting_no_call_is_given_up(test: TestStore) {
    let session_id = fresh_id();
    take_at(&test, 0, &[started(session_id), room(session_id, 30)]).await;
    let sweeper = Sweeper::new(&test);
    let consumer = |seconds: i64, current_since: Option<i64>| IntakeState {
        process_id: Uuid::nil(),
        is_consuming: true,
        current_since: current_since.map(after),
        seen_at: after(seconds),
    };
    let note = async |state: &IntakeState| {
        test.store.note_intake(state, state.seen_at - TimeDelta::days(7)).await.unwrap();
    };
    // Nobody says anything; then nobody has said anything for an hour.
    assert_eq!(sweeper.sweep_alone_at(HOUR).await, 0);
    note(&consumer(HOUR, Some(0))).await;
    assert_eq!(sweeper.sweep_alone_at(2 * HOUR).await, 0);
    // Another process has no queue to wait for: the consumer's fills.
    assert_eq!(sweeper.sweep_at(2 * HOUR).await, 0);
    // It is back, and behind; then it keeps up, but has not done so for long.
    note(&consumer(3 * HOUR, None)).await;
    assert_eq!(sweeper.sweep_at(3 * HOUR).await, 0);
    note(&consumer(4 * HOUR, Some(4 * HOUR - 15 * MINUTE + 1))).await;
    assert_eq!(sweeper.sweep_at(4 * HOUR).await, 0);
    assert_eq!(read(&test, session_id).await.revision, 0);
    note(&consumer(4 * HOUR, Some(4 * HOUR - 15 * MINUTE))).await;
    assert_eq!(sweeper.sweep_at(4 * HOUR).await, 1);
    assert_eq!(test.store.intakes().await.unwrap().len(), 2);
    let much_later = consumer(8 * 24 * HOUR, None);
    note(&much_later).await;
    assert_eq!(test.store.intakes().await.unwrap(), [much_later], "others are forgotten");
}

async fn a_process_that_is_held_up_or_behind_has_not_kept_up(test: TestStore) {
    let clock = Arc::new(HandClock(Mutex::new(noon())));
    let shutdown = CancellationToken::new();
    let (intake, taking) = Intake::new(intake_parts(&test, &clock), shutdown);
    tokio::spawn(taking);
    let watch = |is_consuming| {
        IntakeWatch::new(WatchParts {
            store: Arc::clone(&test.store),
            clock: Arc::<HandClock>::clone(&clock),
            intake: intake.clone(),
            is_consuming,
        })
    };
    let (mut consumer, mut other) = (watch(true), watch(false));
    let mut expect = async |seconds: i64, caught_up: Option<i64>, since: [Option<i64>; 2]| {
        *clock.0.lock().unwrap() = after(seconds);
        if let Some(seconds) = caught_up {
            intake.note_caught_up(after(seconds));
        }
        consumer.look().await.unwrap();
        other.look().await.unwrap();
        for state in test.store.intakes().await.unwrap() {
            let expected = since[usize::from(!state.is_consuming)].map(after);
            assert_eq!((state.current_since, state.seen_at), (expected, after(seconds)));
        }
    };
    expect(0, None, [None, Some(0)]).await;
    expect(60, Some(50), [Some(60), Some(0)]).await;
    // Two minutes behind is behind.
    expect(170, None, [Some(60), Some(0)]).await;
    expect(171, None, [None, Some(0)]).await;
    expect(180, Some(175), [Some(180), Some(0)]).await;
    // Both were asleep.
    expect(600, Some(590), [Some(600), Some(600)]).await;
    expect(660, Some(650), [Some(600), Some(600)]).await;
    // Events are held while the database takes none.
    test.execute("ALTER TABLE sessions RENAME TO sessions_away").await;
    let event = RawEvent {
        bytes: bytes_of(&[ended(fresh_id())])[0].clone(),
        source: "test".into(),
        headers: None,
    };
    let waiting = tokio::spawn({
        let intake = intake.clone();
        async move { intake.take(vec![event], Patience::Wait).await }
    });
    until("it is held", async || intake.is_paused()).await;
    expect(720, Some(710), [None, None]).await;
    test.execute("ALTER TABLE sessions_away RENAME TO sessions").await;
    waiting.await.unwrap();
    expect(780, Some(770), [Some(780), Some(780)]).await;
}

async fn who_says_that_it_has_caught_up_has_taken_what_was_waiting(test: TestStore) {
    let broker = Broker::new().await;
    let sessions: Vec<Uuid> = (0..500).map(|_| fresh_id()).collect();
    let waiting: Vec<Value> = sessions.iter().copied().map(ended).collect();
    broker.publish(&bytes_of(&waiting)).await;
    let clock = Arc::new(HandClock(Mutex::new(after(HOUR))));
    let shutdown = CancellationToken::new();
    let parts = intake_parts(&test, &clock);
    let replayer = Replayer::new(parts.clone(), shutdown.clone());
    let (intake, taking) = Intake::new(parts, shutdown.clone());
    tokio::spawn(taking);
    assert_eq!(intake.caught_up_at(), None);
    let settings = AmqpSettings {
        url: broker.url.clone(),
        prefetch: 20,
        is_declaring: true,
        hold_at_most: HOLD_AT_MOST,
    };
    let takers = (intake.clone(), replayer);
    let consuming = tokio::spawn(amqp::run(settings, takers, Arc::default(), shutdown.clone()));
    until("it says so", async || intake.caught_up_at().is_some()).await;
    for session_id in sessions {
        assert_eq!(read(&test, session_id).await.revision, 1);
    }
    assert_eq!(intake.caught_up_at(), Some(after(HOUR)));
    shutdown.cancel();
    consuming.await.unwrap().unwrap();
}

async fn a_call_whose_worker_died_is_told_and_then_told_again_with_its_real_end(test: TestStore) {
    let receiver = Receiver::start().await;
    test.store.add_endpoint(&subscription(&receiver)).await.unwrap();
    let api = Api::over(test).await;
    let stop = CancellationToken::new();
    let courier = tokio::spawn(courier(&api).run(stop.clone()));
    let session_id = fresh_id();
    let call = |mut event: Value| {
        event["room_id"] = json!(format!("RM_{session_id}"));
        event
    };
    api.take(&[call(started(session_id))]).await;
    for sequence in 1..4 {
        api.take(&[call(checkpoint(session_id, sequence))]).await;
    }
    let in_progress = shown(&api, session_id).await;
    assert_eq!((&in_progress["revision"], &in_progress["turn_count"]), (&json!(0), &json!(0)));
    assert_eq!(
        (&in_progress["transcript"], &in_progress["finalized_at"]),
        (&json!([]), &json!(null))
    );
    livekit_says_that_the_room_is_finished(&api, session_id).await;
    a_quarter_of_an_hour_goes_by(&api).await;
    assert_told(&receiver, 1).await;
    let given_up = shown(&api, session_id).await;
    assert_eq!(given_up["close_reason"], json!("abandoned"));
    assert_eq!((&given_up["revision"], &given_up["turn_count"]), (&json!(1), &json!(3)));
    assert_eq!(given_up["transcript"][2]["text"], json!("Turn 2."));
    assert_eq!(given_up["session_duration_seconds"], json!(186.0));

    api.clock.forward(TimeDelta::hours(1));
    for status in ["finalized", "duplicate"] {
        let answers = api.take(&[call(ended(session_id))]).await;
        assert_eq!(answers[0]["status"], json!(status));
    }
    assert_told(&receiver, 2).await;
    let ended = shown(&api, session_id).await;
    assert_eq!((&ended["revision"], &ended["turn_count"]), (&json!(2), &json!(2)));
    assert_eq!(ended["close_reason"], Value::Null);
    assert_ne!(ended["finalized_at"], given_up["finalized_at"]);
    let filter = FailureFilter { limit: 10, ..FailureFilter::default() };
    assert_eq!(api.test.store.failures(&filter).await.unwrap(), []);
    stop.cancel();
    courier.await.unwrap().unwrap();
}

/// It was closed 186 seconds after it was made, at noon.
async fn livekit_says_that_the_room_is_finished(api: &Api, session_id: Uuid) {
    let made = 1_780_000_000;
    let (then, at) = ((made + 186).to_string(), after(186).timestamp().to_string());
    let body = sample("room_finished", session_id).replace(&then, &at);
    for status in ["accepted", "duplicate"] {
        let answer = post(api, &signed(&body), CONTENT_TYPE, &body).await;
        assert_eq!(answer.json()["data"]["status"], json!(status));
    }
}

/// A process that keeps up gives the call up at its end.
async fn a_quarter_of_an_hour_goes_by(api: &Api) {
    let sweeper = Sweeper::over(api);
    let mut watch = IntakeWatch::new(WatchParts {
        store: Arc::clone(&api.test.store),
        clock: Arc::<crate::api::HandClock>::clone(&api.clock),
        intake: api.intake.clone(),
        is_consuming: false,
    });
    for minute in 0..15 {
        watch.look().await.unwrap();
        assert_eq!(sweeper.sweep.sweep().await.unwrap(), 0, "after {minute} minutes");
        api.clock.forward(TimeDelta::minutes(1));
    }
    assert_eq!(sweeper.sweep.sweep().await.unwrap(), 1);
}

/// So many revisions of the session are told, each once.
async fn assert_told(receiver: &Receiver, revisions: usize) {
    until("it is told", async || receiver.told().len() >= revisions).await;
    let told = receiver.told();
    for (told, revision) in told.iter().zip(1..) {
        let body = told.json();
        assert_eq!(body["type"], json!("session.finalized"));
        assert_eq!((&body["data"]["revision"], told.copies_before), (&json!(revision), 0));
    }
    assert_eq!(told.len(), revisions);
}

async fn the_running_service_keeps_up_with_its_queue_and_gives_up_silent_calls(test: TestStore) {
    let receiver = Receiver::start().await;
    let site = Site::with_broker(test).await;
    site.subscribe(&receiver).await;
    let session_id = fresh_id();
    // Heard in the tests' time, long ago for the service.
    take_at(&site.test, 0, &[started(session_id), checkpoint(session_id, 2)]).await;
    let process = site.start().await;
    let other = fresh_id();
    site.broker().publish(&bytes_of(&[checkpoint(other, 1), room(other, 30)])).await;
    until("the process says that it keeps up", async || {
        let states = site.test.store.intakes().await.unwrap();
        states.iter().any(|state| state.is_consuming && state.current_since.is_some())
    })
    .await;
    until("the queue is empty", async || site.broker().queue(QUEUE).await.unwrap().0 == 0).await;
    assert_eq!(read(&site.test, session_id).await.revision, 0, "it has not kept up for long");
    assert!(site.test.store.session(other).await.unwrap().is_some());
    // As if it had been for an hour, at once after it has looked.
    let kept_up = |state: &IntakeState| IntakeState {
        current_since: Some(state.seen_at - TimeDelta::hours(1)),
        ..state.clone()
    };
    let state = site.test.store.intakes().await.unwrap().into_iter().find(|s| s.is_consuming);
    let state = kept_up(&state.unwrap());
    site.test.store.note_intake(&state, noon()).await.unwrap();
    let sweeper = Sweeper::new(&site.test);
    *sweeper.clock.0.lock().unwrap() = state.seen_at;
    assert_eq!(sweeper.sweep.sweep().await.unwrap(), 1, "the other was heard a moment ago");
    until("it is told", async || receiver.told().len() == 1).await;
    let (_, session) = process.caller().session(session_id).await;
    assert_eq!(session["close_reason"], json!("abandoned"));
    process.stop().await;
}

fn intake_parts(test: &TestStore, clock: &Arc<HandClock>) -> IntakeParts {
    IntakeParts {
        metrics: Arc::default(),
        store: Arc::clone(&test.store),
        clock: Arc::<HandClock>::clone(clock),
        prices: Arc::new(PriceBook::builtin()),
        public_url: PUBLIC_URL.to_owned(),
        recordings_place: "s3://recordings".to_owned(),
        desk: Arc::new(NoDesk),
        max_event_bytes: 4 << 20,
    }
}

/// Every order of so many things.
fn permutations(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = permutations(count - 1);
    let with_last = |order: &Vec<usize>, place: usize| {
        let mut order = order.clone();
        order.insert(place, count - 1);
        order
    };
    shorter.iter().flat_map(|order| (0..count).map(move |at| with_last(order, at))).collect()
}

async fn take_at(test: &TestStore, seconds: i64, events: &[Value]) -> Vec<Outcome> {
    test.take_with(&TestDesk::closed(), after(seconds), events).await.outcomes
}

async fn read(test: &TestStore, session_id: Uuid) -> Session {
    test.store.session(session_id).await.unwrap().expect("the session is readable")
}

/// What the API shows of a session.
async fn shown(api: &Api, session_id: Uuid) -> Value {
    let path = format!("/api/billing/sessions/{session_id}/");
    let answer = api.get(&path, &api.owner_key).await;
    assert_eq!(answer.status, StatusCode::OK);
    answer.json()["data"].clone()
}

/// What was told of a session, by type.
async fn told_of(test: &TestStore, session_id: Uuid) -> Vec<EventType> {
    let deliveries = test.store.deliveries_of(session_id).await.unwrap();
    let mut told: Vec<EventType> = deliveries.iter().map(|delivery| delivery.event_type).collect();
    told.sort();
    told
}

/// All checkpoints, as they are kept.
async fn checkpoints(test: &TestStore) -> Vec<String> {
    let statement = "SELECT session FROM checkpoints";
    if test.url.starts_with("sqlite") {
        let mut connection = sqlx::SqliteConnection::connect(&test.url).await.unwrap();
        sqlx::query_scalar(statement).fetch_all(&mut connection).await.unwrap()
    } else {
        let mut connection = sqlx::PgConnection::connect(&test.url).await.unwrap();
        sqlx::query_scalar(statement).fetch_all(&mut connection).await.unwrap()
    }
}

#[track_caller]
fn assert_conflict(outcome: &Outcome, pointer: Option<&str>) {
    let Outcome::Failed { rejection, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(rejection.code, FailureCode::ConflictingEvent);
    assert_eq!(rejection.pointer.as_deref(), pointer);
}

fn courier(api: &Api) -> Courier {
    let guard = Guard { allow: vec!["127.0.0.0/8".parse().unwrap()], allow_http: false };
    Courier::new(CourierParts {
        metrics: Arc::default(),
        store: Arc::clone(&api.test.store),
        clock: Arc::<crate::api::HandClock>::clone(&api.clock),
        system_clock: None,
        keyring: keyring(),
        client: Client::new(Arc::new(guard), ClientOptions::default()),
        longest_attempt: LONGEST_ATTEMPT,
        public_url: PUBLIC_URL.into(),
    })
}

struct HandClock(Mutex<DateTime<Utc>>);

impl Clock for HandClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }
}

/// The sweep of one process, which takes events over HTTP.
struct Sweeper {
    sweep: SilenceSweep,
    test: Arc<dyn finalizer::store::Store>,
    clock: Arc<HandClock>,
    process_id: Uuid,
}

impl Sweeper {
    fn new(test: &TestStore) -> Self {
        let clock = Arc::new(HandClock(Mutex::new(noon())));
        Self::with(&test.store, Arc::<HandClock>::clone(&clock), clock)
    }

    /// Under the API's clock.
    fn over(api: &Api) -> Self {
        let clock = Arc::new(HandClock(Mutex::new(noon())));
        Self::with(&api.test.store, Arc::<crate::api::HandClock>::clone(&api.clock), clock)
    }

    fn with(
        store: &Arc<dyn finalizer::store::Store>,
        of_sweep: Arc<dyn Clock>,
        clock: Arc<HandClock>,
    ) -> Self {
        let sweep = SilenceSweep::new(SilenceParts {
            store: Arc::clone(store),
            clock: of_sweep,
            public_url: PUBLIC_URL.to_owned(),
            recordings_place: "s3://recordings".to_owned(),
            abandon_after: Duration::from_hours(6),
        });
        Self { sweep, test: Arc::clone(store), clock, process_id: fresh_id() }
    }

    /// How many calls it gives up so many seconds after noon, having kept up with all events.
    async fn sweep_at(&self, seconds: i64) -> usize {
        let state = IntakeState {
            process_id: self.process_id,
            is_consuming: false,
            current_since: Some(after(seconds - HOUR)),
            seen_at: after(seconds),
        };
        self.test.note_intake(&state, after(seconds) - TimeDelta::days(7)).await.unwrap();
        self.sweep_alone_at(seconds).await
    }

    /// Without a word of how far it has come.
    async fn sweep_alone_at(&self, seconds: i64) -> usize {
        *self.clock.0.lock().unwrap() = after(seconds);
        self.sweep.sweep().await.unwrap()
    }
}

/// A checkpoint that an earlier release has kept is read by this one: if this fails, a field has no
/// default, or has another name or form than it was written with.
#[test]
fn a_checkpoint_that_was_once_written_is_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/checkpoint.json");
    let mut event = checkpoint(Uuid::from_u128(7), 2);
    event["recording"] = json!({"expected": true, "egress_id": "EG_1"});
    let Ok(Change::Checkpoint { so_far, .. }) = prepared(&event).change else {
        panic!("it is a checkpoint")
    };
    let written = std::fs::read_to_string(path).unwrap();
    let now = serde_json::to_string(&so_far).unwrap();
    let read: Session = serde_json::from_str(&written).unwrap_or_else(|_| panic!("now: {now}"));
    assert_eq!(read, *so_far);
    assert_eq!(serde_json::from_str::<Session>(&now).unwrap(), read);
}

#[test]
fn silence_is_never_shorter_for_a_closed_room() {
    for hours in [1, 6, 100] {
        let silence = Silence::at(noon(), TimeDelta::hours(hours)).unwrap();
        assert_eq!(silence.since, noon() - TimeDelta::hours(hours));
        assert_eq!(silence.since_room, noon() - TimeDelta::minutes(15));
    }
    let short = Silence::at(noon(), TimeDelta::minutes(5)).unwrap();
    assert_eq!(short.since_room, noon() - TimeDelta::minutes(5));
    assert_eq!(Silence::at(noon(), TimeDelta::MAX), None);
}
