//! From bytes to what customers read: real reports and histories finalize to the numbers that
//! were worked out by hand, and nothing that decode takes makes the rest panic.

use std::net::{Ipv4Addr, Ipv6Addr};

use chrono::{DateTime, Utc};
use finalizer::event::{Event, FailureCode, Rejection, decode, egress_from_slice};
use finalizer::finalize::{PriceBook, Session, finalize, session_data, settle_recording};
use ipnet::IpNet;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::claims;
use crate::claims::decode::check_rejection;
use crate::claims::finalize::check_transcript;

fn fixture(path: &str) -> Value {
    let path = format!("{}/tests/fixtures/{path}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap()
}

/// A report or a history of `livekit/` as the worker whose call began at `started_at` sends it.
fn event(name: &str, started_at: f64) -> Value {
    let body = fixture(&format!("livekit/{name}"));
    let (kind, member) = if body.get("chat_history").is_some() {
        ("livekit_session_report", "report")
    } else {
        ("livekit_history", "history")
    };
    json!({
        "type": "session.ended", "schema_version": 1, "event_id": name,
        "session_id": "01970000-0000-7000-8000-000000000001", "tenant_id": "acme",
        "character_slug": "support-bot", "character_owner": 7, "started_at": started_at,
        "source": {"kind": kind}, member: body,
    })
}

fn finalized(event: &Value) -> Result<Session, Rejection> {
    let bytes = event.to_string();
    match decode(bytes.as_bytes())? {
        Event::Ended(ended) => finalize(&ended, &PriceBook::builtin()),
        other => panic!("a call was sent, not {other:?}"),
    }
}

fn data(event: &Value) -> Value {
    serde_json::from_str(session_data(&finalized(event).unwrap(), None).get()).unwrap()
}

/// (first letter of the speaker, ts) of each turn.
fn starts(data: &Value) -> Vec<(&str, f64)> {
    let turns = data["transcript"].as_array().unwrap();
    turns
        .iter()
        .map(|turn| (&turn["role"].as_str().unwrap()[..1], turn["ts"].as_f64().unwrap()))
        .collect()
}

fn assert_numbers(data: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&data[name], value, "{name}");
    }
}

#[test]
fn a_long_call_has_the_numbers_that_a_person_works_out() {
    let data = data(&event("report_interrupted_tool_unicode", 1_795_353_625.320_459_8));
    assert_eq!(
        starts(&data),
        [
            ("a", 0.216),
            ("u", 2.513),
            ("u", 8.013),
            ("a", 10.856),
            ("a", 12.374),
            ("u", 15.013),
            ("a", 16.737),
            ("u", 20.013),
            ("a", 22.221),
        ]
    );
    let text = data["transcript_text"].as_str().unwrap();
    assert!(text.ends_with("land far\nUser: Stop, that is enough.\nAssistant: Okay, stopping."));
    // 341 * 0.15 + 64 * 0.60 = 89.55 and 6 s * 0.0001 = 600 micro-dollars.
    assert_numbers(
        &data,
        &json!({
            "turn_count": 9, "interruption_count": 1, "session_duration_seconds": 27.732,
            "llm_input_tokens": 341, "llm_output_tokens": 64, "llm_model": "gpt-4o-mini",
            "llm_provider": "openai", "stt_audio_seconds": 6.0, "stt_provider": "openai",
            "tts_characters": 244, "tts_provider": "chatterbox", "estimated_cost_usd": "0.000690",
            "close_reason": "user_initiated", "created_at": "2026-11-22T13:20:25Z",
            "cost_breakdown": {
                "lines": [
                    {"kind": "llm", "provider": "openai", "model": "gpt-4o-mini", "cost_usd": "0.000090"},
                    {"kind": "stt", "provider": "openai", "model": "whisper-1", "cost_usd": "0.000600"},
                ],
                "unpriced": [
                    {"kind": "tts", "provider": "chatterbox", "model": "chatterbox-en-v1"},
                ],
            },
        }),
    );
}

#[test]
fn hanging_up_in_mid_speech_is_no_interruption() {
    let started_at = 1_795_353_653.062_814_7;
    let short = data(&event("report_hangup_mid_speech", started_at));
    assert_eq!(starts(&short), [("u", 0.502), ("a", 2.217)]);
    // 34 * 0.15 + 18 * 0.60 = 15.9 and 1 s * 0.0001 = 100 micro-dollars.
    assert_numbers(
        &short,
        &json!({
            "turn_count": 2, "interruption_count": 0, "session_duration_seconds": 7.005,
            "llm_input_tokens": 34, "llm_output_tokens": 18, "stt_audio_seconds": 1.0,
            "tts_characters": 73, "estimated_cost_usd": "0.000116",
            "transcript_text": "User: Hello?\nAssistant: Hello! Thank you for calling",
        }),
    );
    // With the noise that publishers should leave out, it is the same call.
    let full = event("full_report_hangup_mid_speech", started_at);
    assert!(full.to_string().len() > 2 * short.to_string().len());
    assert_eq!(data(&full), short);
}

#[test]
fn a_report_before_1_8_9_has_untyped_usage_and_no_duration() {
    let data = data(&event("report_livekit_1_5_9", 1_795_355_039.536_035));
    let expected: [f64; 12] =
        [0.12, 2.657, 2.787, 4.669, 4.745, 5.559, 7.742, 8.076, 10.077, 10.321, 12.279, 12.347];
    assert_eq!(starts(&data).into_iter().map(|(_, ts)| ts).collect::<Vec<_>>(), expected);
    assert_eq!(data["transcript"][2]["text"], "Great — what day works for you?", "trimmed");
    // (372 - 121) * 0.15 + 121 * 0.075 + 50 * 0.60 = 76.725 micro-dollars.
    assert_numbers(
        &data,
        &json!({
            "turn_count": 12, "interruption_count": 1, "session_duration_seconds": 12.671,
            "llm_input_tokens": 372, "llm_output_tokens": 50, "stt_audio_seconds": 0.0,
            "stt_provider": null, "tts_characters": 234, "tts_provider": "chatterbox",
            "estimated_cost_usd": "0.000077", "close_reason": null,
        }),
    );
}

#[test]
fn every_real_report_and_history_finalizes() {
    for (name, started_at, turns, seconds, cost) in [
        ("report_livekit_1_3", 1_780_000_000.0, 3, 9.5, "0.000000"),
        ("report_livekit_1_8_9", 1_795_354_988.622_223_6, 12, 12.822, "0.000086"),
        ("report_no_speech", 1_795_353_660.076_825_6, 0, 3.818, "0.000000"),
        ("report_unicode_typed", 1_795_354_752.747_301, 4, 11.221, "0.000171"),
        ("history_interrupted_tool_unicode", 1_795_353_625.320_459_8, 9, 23.233, "0.000000"),
        ("history_edge_cases", 1_780_000_000.0, 15, 20.0, "0.000000"),
        ("history_all_parts", 1_780_000_000.0, 14, 20.0, "0.000000"),
        ("history_with_audio", 1_780_000_000.0, 15, 20.0, "0.000000"),
        // Without `created_at`, but its speakers' times are there.
        ("history_default_hangup", 1_795_353_653.062_814_7, 2, 5.001, "0.000000"),
        ("history_realtime_late_user", 1_770_838_020.0, 3, 16.872, "0.000000"),
        ("history_realtime_late_user_sorted", 1_770_838_020.0, 3, 16.872, "0.000000"),
    ] {
        let data = data(&event(name, started_at));
        assert_eq!(data["turn_count"], turns, "{name}");
        assert_eq!(data["session_duration_seconds"], seconds, "{name}");
        assert_eq!(data["estimated_cost_usd"], cost, "{name}");
        assert!(!data.to_string().contains("SECRET"), "{name}");
        check_transcript(&data);
    }
}

#[test]
fn a_question_whose_transcript_came_late_stands_before_its_answer() {
    let started_at = 1_770_838_020.0;
    let late = data(&event("history_realtime_late_user", started_at));
    assert_eq!(starts(&late), [("a", 3.943), ("u", 12.767), ("a", 12.767)]);
    // Once the SDK has sorted its history, nothing tells which answer it belongs to.
    let sorted = data(&event("history_realtime_late_user_sorted", started_at));
    assert_eq!(starts(&sorted), [("a", 3.943), ("a", 12.767), ("u", 16.867)]);
}

#[test]
fn what_was_heard_through_a_realtime_model_is_text_where_there_is_no_other() {
    let data = data(&event("history_with_audio", 1_780_000_000.0));
    let texts: Vec<&str> = data["transcript"]
        .as_array()
        .unwrap()
        .iter()
        .map(|turn| turn["text"].as_str().unwrap())
        .collect();
    assert!(texts.contains(&"spoken via realtime"));
    assert!(texts.contains(&"Ha, sure!"), "without markup");
    assert!(texts.contains(&"look at this\nand this"));
    assert!(texts.contains(&"First paragraph.\nUser: injected line\r\nEnd."), "exact");
}

#[test]
fn what_cannot_be_finalized_says_what_to_change() {
    let untimed = fixture("bad/untimed_turns");
    let untimed_rejection = finalized(&untimed).unwrap_err();
    assert_eq!(untimed_rejection.code, FailureCode::UntimedTurns);
    assert_eq!(
        untimed_rejection.message,
        "Expected turns with times to order them by, found none: use \
         history.to_dict(exclude_timestamp=False)."
    );
    let other_day = event("report_hangup_mid_speech", 1_795_440_000.0);
    let other_day_rejection = finalized(&other_day).unwrap_err();
    assert_eq!(other_day_rejection.pointer.as_deref(), Some("/started_at"));
    let mut backwards = event("report_no_speech", 1_795_353_660.0);
    backwards["ended_at"] = json!(1_795_353_659.999_9);
    let backwards_rejection = finalized(&backwards).unwrap_err();
    assert_eq!(backwards_rejection.pointer.as_deref(), Some("/ended_at"));
    let mut usage = event("report_hangup_mid_speech", 1_795_353_653.0);
    usage["report"]["usage"] = json!([
        {"type": "eot_usage", "total_requests": 3},
        {"type": "llm_usage", "input_tokens": 5, "input_cached_tokens": 5},
        {"total_requests": 3},
        {"type": "llm_usage", "input_tokens": 5, "input_cached_tokens": 6},
    ]);
    let usage_rejection = finalized(&usage).unwrap_err();
    let pointer = usage_rejection.pointer.as_deref();
    assert_eq!(pointer, Some("/report/usage/3/input_cached_tokens"));
    for (rejection, event) in [
        (untimed_rejection, untimed),
        (other_day_rejection, other_day),
        (backwards_rejection, backwards),
        (usage_rejection, usage),
    ] {
        check_rejection(&rejection, event.to_string().as_bytes());
    }
}

#[test]
fn each_line_of_the_bad_file_fails_as_it_is_meant_to() {
    let path = format!("{}/tests/fixtures/bad.ndjson", env!("CARGO_MANIFEST_DIR"));
    let code = |line: &str| match decode(line.as_bytes()) {
        Err(rejection) => Some(rejection.code),
        Ok(Event::Ended(ended)) => {
            finalize(&ended, &PriceBook::builtin()).err().map(|rejection| rejection.code)
        }
        Ok(other) => panic!("only calls are sent, not {other:?}"),
    };
    let codes: Vec<_> = std::fs::read_to_string(path).unwrap().lines().map(code).collect();
    let expected = [
        Some(FailureCode::MalformedJson),
        Some(FailureCode::UnsupportedType),
        Some(FailureCode::UnsupportedVersion),
        Some(FailureCode::InvalidSessionId),
        Some(FailureCode::InvalidEvent),
        Some(FailureCode::UntimedTurns),
        // Good events both, but of one session: the second conflicts with the first.
        None,
        None,
    ];
    assert_eq!(codes, expected);
}

fn fixtures() -> Vec<Value> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/events");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort();
    let read = |path| serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    paths.into_iter().map(read).collect()
}

/// Values at the borders of what decode takes, as JSON.
const ODD: [&str; 24] = [
    "null",
    "0",
    "1",
    "-1",
    "0.0000005",
    "1e11",
    "100000000001",
    "1000000000000",
    "10000000",
    "253402300799",
    "-62167219200",
    "9223372036854775807",
    "-9223372036854775808",
    "2147483647",
    "\"0000-01-01T00:00:00Z\"",
    "\"9999-12-31T23:59:59.999999Z\"",
    "\"2016-12-31T23:59:60Z\"",
    "\"\"",
    "\"user\"",
    "\"assistant\"",
    "\"\\ud83d\\u0000 <expr a> \\u2028\"",
    "[]",
    "{}",
    "true",
];

fn any_mutated_fixture() -> impl Strategy<Value = String> {
    let fixtures = fixtures();
    let change = (any::<prop::sample::Index>(), prop::sample::select(ODD.to_vec()));
    (0..fixtures.len(), prop::collection::vec(change, 0..4)).prop_map(move |(index, changes)| {
        let mut event = fixtures[index].clone();
        let mut values = Vec::new();
        for (place, odd) in changes {
            let mut pointers = Vec::new();
            collect_leaves(&event, String::new(), &mut pointers);
            let mark = format!("ODD {}", values.len());
            *event.pointer_mut(&pointers[place.index(pointers.len())]).unwrap() = json!(mark);
            values.push((format!("\"{mark}\""), odd));
        }
        let text = event.to_string();
        values.iter().fold(text, |text, (mark, odd)| text.replace(mark, odd))
    })
}

/// Pointers to what holds nothing else, and to lists.
fn collect_leaves(value: &Value, pointer: String, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                collect_leaves(member, format!("{pointer}/{}", name.replace('/', "~1")), found);
            }
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                collect_leaves(element, format!("{pointer}/{index}"), found);
            }
            found.push(pointer);
        }
        _ => found.push(pointer),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_decode_takes_is_finalized_or_refused_and_shown(text in any_mutated_fixture()) {
        claims::decode::check(text.as_bytes());
        claims::finalize::check(text.as_bytes(), &PriceBook::builtin());
    }

    #[test]
    fn no_damage_to_an_event_makes_it_two_events(
        text in any_mutated_fixture(),
        place in any::<prop::sample::Index>(),
        inserted in prop::collection::vec(any::<u8>(), 0..4),
        removed in 0..4_usize,
    ) {
        let mut bytes = text.into_bytes();
        let place = place.index(bytes.len());
        let end = bytes.len().min(place + removed);
        bytes.splice(place..end, inserted);
        claims::decode::check(&bytes);
        claims::finalize::check(&bytes, &PriceBook::builtin());
    }

    #[test]
    fn what_is_known_of_an_egress_can_be_sent_again(text in any_mutated_fixture()) {
        if let Ok(event) = serde_json::from_str::<Value>(&text) {
            claims::egress::read(event["egress"].to_string().as_bytes());
        }
    }

    #[test]
    fn no_url_leads_inside(
        userinfo in "([a-z:@]{0,3}@)?",
        host in "([0-9]{1,3}\\.){0,3}[0-9a-fx]{1,10}|\\[(64:ff9b|2002|fd00|::ffff)?(::?[0-9a-f.]{1,8}){0,4}\\]|[a-z%0-9.]{0,12}",
        rest in "(:[0-9]{0,5})?(/[ -~]{0,20})?",
    ) {
        for scheme in ["https://", "http://", "https:"] {
            claims::address::check_url(&format!("{scheme}{userinfo}{host}{rest}"));
        }
    }

    #[test]
    fn no_address_inside_may_be_called(
        bits in any::<u128>(),
        start in prop::sample::select(vec![0, 0xffff_u128, 0x64_ff9b << 64, 0x2002 << 80]),
        length in 0..=32_u8,
    ) {
        let low = u32::try_from(bits & 0xffff_ffff).unwrap();
        let network = IpNet::new(Ipv4Addr::from(low ^ 1).into(), length).unwrap();
        let embedding = Ipv6Addr::from((start << 32) | u128::from(low));
        for address in [Ipv4Addr::from(low).into(), Ipv6Addr::from(bits).into(), embedding.into()] {
            claims::address::check_address(address);
            claims::address::check_allowed(network, address);
        }
    }
}

#[test]
fn the_default_place_is_where_a_file_of_no_bucket_lies() {
    let began: DateTime<Utc> = "2026-05-28T20:26:40Z".parse().unwrap();
    let mut complete = fixture("events/recording_complete")["egress"].take();
    let url = |egress: &Value, place: &str| {
        let egress = egress_from_slice(egress.to_string().as_bytes(), "/egress").unwrap();
        let mut session = finalized(&event("report_no_speech", 1_795_353_660.0)).unwrap();
        session.started_at = began;
        let state = settle_recording(&session, &[egress], place);
        (state.url.unwrap(), state.offset_ms)
    };
    let asked = url(&complete, "file:///var/recordings");
    assert_eq!(asked, ("s3://oshara-recordings/sess_a1b2c3.mp4".to_owned(), Some(0)));
    complete.as_object_mut().unwrap().remove("roomComposite");
    for (place, expected) in [
        ("s3://calls", "s3://calls/sess_a1b2c3.mp4"),
        ("s3://calls/eu", "s3://calls/eu/sess_a1b2c3.mp4"),
        ("file:///var/recordings", "file:///var/recordings/sess_a1b2c3.mp4"),
    ] {
        assert_eq!(url(&complete, place).0, expected);
    }
}
