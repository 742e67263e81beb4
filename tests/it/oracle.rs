//! Our transcripts against an independent implementation of the same projection.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use finalizer::event::{Event, Role, SessionEnded, decode};
use finalizer::finalize::{PriceBook, Turn, finalize, turns};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Oracle {
    base: f64,
    turns: Vec<OracleTurn>,
}

#[derive(Deserialize)]
struct OracleTurn {
    id: String,
    role: String,
    text: String,
    start_ms: i64,
    #[serde(default)]
    interrupted: bool,
}

fn fixture(name: &str) -> String {
    let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

/// The history as a worker whose call began at `started_at` would send it.
fn event(history: &str, started_at: DateTime<Utc>) -> Vec<u8> {
    let path = format!("livekit/{history}_with_timestamps.json");
    let history: serde_json::Value = serde_json::from_str(&fixture(&path)).unwrap();
    let event = json!({
        "type": "session.ended",
        "schema_version": 1,
        "event_id": "oracle",
        "session_id": "01970000-0000-7000-8000-000000000001",
        "tenant_id": "acme",
        "character_slug": "support-bot",
        "character_owner": 7,
        "started_at": started_at.to_rfc3339(),
        "source": {"kind": "livekit_history"},
        "history": history,
        "usage": [],
    });
    serde_json::to_vec(&event).unwrap()
}

fn ended(bytes: &[u8]) -> SessionEnded<'_> {
    match decode(bytes).unwrap() {
        Event::Ended(ended) => *ended,
        other => panic!("a session.ended was sent, not {other:?}"),
    }
}

fn oracle(history: &str) -> (Oracle, DateTime<Utc>) {
    let path = format!("oracle/oracle_livekit_evals.{history}_with_timestamps.json");
    let oracle: Oracle = serde_json::from_str(&fixture(&path)).unwrap();
    #[expect(clippy::cast_possible_truncation, reason = "microseconds since 1970 fit for long")]
    let base_us = (oracle.base * 1e6).floor() as i64;
    (oracle, DateTime::from_timestamp_micros(base_us).unwrap())
}

/// Compares item by item. The oracle keeps every copy of an item; the first is ours. It keeps
/// U+0000, which we do not.
fn assert_agrees(history: &str) {
    let (oracle, started_at) = oracle(history);
    let bytes = event(history, started_at);
    let ended = ended(&bytes);
    let ours = turns(&ended.call).unwrap();

    let mut expected = BTreeMap::new();
    for turn in oracle.turns {
        let role = if turn.role == "agent" { Role::Assistant } else { Role::User };
        let text = turn.text.replace('\0', "");
        expected.entry(turn.id).or_insert((role, text, turn.start_ms, turn.interrupted));
    }
    let found: BTreeMap<_, _> = ours
        .into_iter()
        .map(|turn| {
            let Turn { id, role, text, start_ms, is_interrupted, .. } = turn;
            (id.unwrap().to_owned(), (role, text.into_owned(), start_ms, is_interrupted))
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_call_with_an_interruption_and_a_tool_agrees() {
    assert_agrees("livekit_call_a_interrupt_tool_unicode.history");
}

#[test]
fn a_hang_up_in_mid_speech_agrees() {
    assert_agrees("livekit_call_b_hangup_mid_speech.history");
}

#[test]
fn a_caller_who_never_speaks_agrees() {
    assert_agrees("livekit_call_c_no_speech.history");
}

#[test]
fn typed_and_foreign_text_agrees() {
    assert_agrees("livekit_call_e_unicode_typed_input.history");
}

#[test]
fn hand_made_corner_cases_agree() {
    assert_agrees("livekit_edge.chat_ctx");
}

#[test]
fn only_a_user_who_speaks_over_the_agent_interrupts_it() {
    for (history, expected) in [
        ("livekit_call_a_interrupt_tool_unicode.history", 1),
        ("livekit_call_b_hangup_mid_speech.history", 0),
    ] {
        let bytes = event(history, oracle(history).1);
        let session = finalize(&ended(&bytes), &PriceBook::builtin()).unwrap();
        assert_eq!(session.interruption_count, expected, "{history}");
    }
}
