//! Finalizing and showing: what decode takes becomes a session that adds up, or is refused.

use finalizer::event::{Event, FailureCode, SessionEnded, decode};
use finalizer::finalize::{
    PriceBook, Session, finalize, full_payload, session_data, settle_recording, start, thin_payload,
};
use finalizer::webhook::EventType;
use serde_json::Value;

use super::decode::check_rejection;
use super::noon;

const SHORT_CALL: &[u8] = include_bytes!("../../fixtures/events/call_no_speech.json");

/// Checks everything that is claimed of what is made of these bytes.
pub(crate) fn check(bytes: &[u8], prices: &PriceBook) {
    match decode(bytes) {
        Err(_) | Ok(Event::Room(_)) => {}
        Ok(Event::Started(started)) => check_session(&start(&started)),
        Ok(Event::Ended(ended)) => check_call(&ended, bytes, prices),
        Ok(Event::Checkpoint(checkpoint)) => check_call(&checkpoint.so_far, bytes, prices),
        Ok(Event::Recording(updated)) => {
            let Ok(Event::Ended(ended)) = decode(SHORT_CALL) else { panic!("a call was read") };
            let mut session = finalize(&ended, prices).unwrap();
            session.recording =
                settle_recording(&session, &[updated.egress], "file:///var/recordings");
            check_session(&session);
        }
    }
}

fn check_call(ended: &SessionEnded<'_>, bytes: &[u8], prices: &PriceBook) {
    let finalized = finalize(ended, prices);
    assert_eq!(finalized, finalize(ended, prices), "the same call is the same session");
    match finalized {
        Ok(session) => check_session(&session),
        Err(rejection) => {
            let is_known =
                matches!(rejection.code, FailureCode::InvalidEvent | FailureCode::UntimedTurns);
            assert!(is_known, "{rejection:?}");
            check_rejection(&rejection, bytes);
        }
    }
}

/// What holds for every session.
pub(crate) fn check_session(session: &Session) {
    let shown: Value = serde_json::from_str(session_data(session, Some("u")).get()).unwrap();
    check_transcript(&shown);
    check_counts(session);
    check_cost(session, &shown);
    for egress_id in [None, Some("EG_1")] {
        let event_type = EventType::SessionFinalized;
        let bodies = [
            thin_payload(event_type, noon(), session, egress_id, "http://h"),
            full_payload(event_type, noon(), session, egress_id, "http://h"),
        ];
        for body in bodies {
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["data"]["session_id"], shown["session_id"]);
        }
    }
}

/// What holds for every transcript.
pub(crate) fn check_transcript(data: &Value) {
    let turns = data["transcript"].as_array().unwrap();
    assert_eq!(data["turn_count"], turns.len());
    let mut last = 0.0;
    for (index, turn) in turns.iter().enumerate() {
        assert_eq!(turn["turn_index"], index);
        let ts = turn["ts"].as_f64().unwrap();
        assert!(ts >= last, "ts never falls");
        last = ts;
        let text = turn["text"].as_str().unwrap();
        assert!(!text.is_empty() && !text.contains('\0') && text.trim() == text);
    }
    let text = data["transcript_text"].as_str().unwrap();
    let lines: Vec<&str> = if text.is_empty() { vec![] } else { text.split('\n').collect() };
    assert_eq!(lines.len(), turns.len(), "a turn is a line");
    for (line, turn) in lines.iter().zip(turns) {
        let speaker = if turn["role"] == "user" { "User: " } else { "Assistant: " };
        assert!(line.starts_with(speaker), "{line}");
        assert!(!line.contains(['\r', '\u{85}', '\u{2028}', '\u{2029}']), "{line}");
    }
}

fn check_counts(session: &Session) {
    assert!(session.duration_ms >= 0 && session.interruption_count >= 0);
    assert!(session.llm_input_tokens >= 0 && session.llm_output_tokens >= 0);
    assert!(session.stt_audio_ms >= 0 && session.tts_characters >= 0);
    if let Some(ended_at) = session.ended_at {
        assert_eq!((ended_at - session.started_at).num_milliseconds(), session.duration_ms);
    }
    assert!(session.llm_input_tokens + session.llm_output_tokens == 0 || session.usage != "{}");
    serde_json::from_str::<Value>(&session.usage).unwrap();
    assert!(serde_json::from_str::<Value>(&session.metadata).unwrap().is_object());
}

/// The lines are the whole, each of them and the whole rounded to a micro-dollar.
fn check_cost(session: &Session, shown: &Value) {
    let total = micros(&shown["estimated_cost_usd"]);
    assert_eq!(total, session.cost_micros);
    let lines = shown["cost_breakdown"]["lines"].as_array().unwrap();
    let sum: i64 = lines.iter().map(|line| micros(&line["cost_usd"])).sum();
    let rounded = i64::try_from(lines.len()).unwrap();
    assert!((sum - total).abs() <= rounded, "{}", session.cost_breakdown);
    assert!(total >= 0 && lines.iter().all(|line| micros(&line["cost_usd"]) >= 0));
}

/// Dollars with exactly six decimals, as micro-dollars.
fn micros(dollars: &Value) -> i64 {
    let (whole, decimals) = dollars.as_str().unwrap().split_once('.').unwrap();
    assert_eq!(decimals.len(), 6);
    format!("{whole}{decimals}").parse().unwrap()
}
