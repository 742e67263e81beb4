//! Reports on a recording: any copies in any order amount to the same.

use finalizer::event::{
    Egress, EgressFile, EgressStatus, Event, decode, egress_from_slice, recording_event,
};
use finalizer::finalize::{
    PriceBook, RecordingStatus, Session, egress_outcome, finalize, merge_egress, settle_recording,
};
use finalizer::webhook::EventType;

use super::after;

const CALL: &[u8] = include_bytes!("../../fixtures/events/call_pipecat.json");
const PLACE: &str = "s3://default/calls";

/// A report of a small universe in which many are alike.
pub(crate) fn report(bytes: [u8; 8]) -> Egress {
    let [status, updated, room, file, size, start, end, rest] = bytes;
    let name = |choice: u8| (!choice.is_multiple_of(3)).then(|| format!("room {}", choice % 3));
    let time = |choice: u8| (!choice.is_multiple_of(3)).then(|| after(i64::from(choice % 3)));
    Egress {
        egress_id: "EG_1".to_owned(),
        room_id: name(room),
        room_name: name(room / 3),
        status: [
            EgressStatus::Starting,
            EgressStatus::Active,
            EgressStatus::Ending,
            EgressStatus::Aborted,
            EgressStatus::Failed,
            EgressStatus::Complete,
        ][usize::from(status % 6)],
        updated_at_ns: i64::from(updated % 4),
        started_at: time(start),
        ended_at: time(end),
        file: (file % 4 > 0).then(|| EgressFile {
            filename: format!("{}.mp4", file % 4),
            bucket: name(file / 4),
            size: i64::from(size % 3),
            is_stored: size / 3 % 4 > 0,
            started_at: time(start / 3),
        }),
        is_backup_only: rest % 8 == 7,
        error: (rest / 8 % 3 > 0).then(|| (rest / 8 % 3).to_string()),
        is_from_livekit: rest >= 128,
    }
}

/// Checks what is claimed of an `EgressInfo`: a report that can be sent again, or a pointer into it.
pub(crate) fn read(info: &[u8]) -> Option<Egress> {
    match egress_from_slice(info, "/egressInfo") {
        Err(rejection) => {
            assert!(rejection.pointer.unwrap().starts_with("/egressInfo"));
            assert!(rejection.message.ends_with('.'), "{}", rejection.message);
            None
        }
        Ok(egress) => {
            let event = recording_event(&egress, None);
            let Ok(Event::Recording(again)) = decode(&event) else { panic!("{egress:?}") };
            assert_eq!(again.egress, egress);
            Some(egress)
        }
    }
}

/// Checks what is claimed of merging reports: copies and orders do not matter, and a later state
/// is not undone by an earlier one.
pub(crate) fn check_merging(one: &Egress, other: &Egress, third: &Egress) {
    let merge = |one: &Egress, other: &Egress| merge_egress(one.clone(), other.clone());
    let both = merge(one, other);
    assert_eq!(merge(one, one), *one, "copies do not matter");
    assert_eq!(merge(&both, one), both, "nor do late copies");
    assert_eq!(merge(&both, other), both, "nor do late copies");
    assert_eq!(merge(other, one), both, "order does not matter");
    assert_eq!(merge(&both, third), merge(one, &merge(other, third)), "nor do groups");
    let is_ready = |egress: &Egress| egress_outcome(egress) == Some(EventType::RecordingReady);
    assert_eq!(is_ready(&both), is_ready(one) || is_ready(other), "READY is never undone");
    let is_over = |egress: &Egress| egress_outcome(egress).is_some();
    assert_eq!(is_over(&both), is_over(one) || is_over(other), "nor is an end");
    let is_later = |one: &Egress, other: &Egress| {
        is_ready(one) == is_ready(other)
            && is_over(one) == is_over(other)
            && one.updated_at_ns > other.updated_at_ns
    };
    if is_later(one, other) {
        assert_eq!((both.status, &both.file), (one.status, &one.file), "the later report counts");
    }
}

/// Checks what is claimed of a session's recording, of all its egresses together.
pub(crate) fn check_settling(mut egresses: Vec<Egress>, has_given_up: bool) {
    for (index, egress) in egresses.iter_mut().enumerate() {
        egress.egress_id = format!("EG_{index}");
    }
    let session = Session { is_recording_given_up: has_given_up, ..call() };
    let settled = settle_recording(&session, &egresses, PLACE);
    for _ in 0..egresses.len() {
        egresses.rotate_left(1);
        assert_eq!(settle_recording(&session, &egresses, PLACE), settled);
    }
    egresses.reverse();
    assert_eq!(settle_recording(&session, &egresses, PLACE), settled);
    let is_ready =
        egresses.iter().any(|egress| egress_outcome(egress) == Some(EventType::RecordingReady));
    assert_eq!(settled.status == RecordingStatus::Ready, is_ready);
    assert_eq!(settled.url.is_some(), is_ready);
    let is_open = matches!(settled.status, RecordingStatus::Pending | RecordingStatus::Processing);
    assert!(!(has_given_up && is_open), "the deadline ends what is open");
}

fn call() -> Session {
    thread_local! {
        static SESSION: Session = {
            let Ok(Event::Ended(ended)) = decode(CALL) else { panic!("a call was read") };
            let mut session = finalize(&ended, &PriceBook::builtin()).unwrap();
            session.recording_expected = true;
            (session.recording_egress_id, session.recording_worker_url) = (None, None);
            session
        };
    }
    SESSION.with(Clone::clone)
}
