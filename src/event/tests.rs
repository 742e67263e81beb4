//! What decoding promises: the same event for the same content, a clear rejection for the rest.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::decode::{decode_carefully, decode_fast};
use super::members::Members;
use super::*;

fn fixtures() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/events");
    let mut fixtures: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    fixtures.sort();
    fixtures
}

fn ended() -> Value {
    json!({
        "type": "session.ended", "schema_version": 1, "event_id": "e1",
        "occurred_at": "2026-05-28T14:23:48Z",
        "session_id": "01979f3a-5b00-7000-8000-000000000001",
        "tenant_id": "acme", "character_slug": "support-bot", "character_owner": 7, "user": 8,
        "room_name": "room", "room_id": "RM_1", "origin_url": "https://acme.example/",
        "metadata": {"plan": "pro", "seats": [1, 2.50]},
        "started_at": "2026-05-28T14:20:43Z", "ended_at": "2026-05-28T14:23:47.700Z",
        "close_reason": "participant_disconnected",
        "source": {"kind": "messages"},
        "messages": [
            {"id": "m1", "role": "assistant", "text": "Hi!", "started_at": 1_779_978_043.5,
             "ended_at": 1_779_978_044.5, "interrupted": true},
            {"id": "m2", "role": "user", "text": "Hello", "started_at": 1_779_978_045},
        ],
        "usage": [
            {"type": "llm", "provider": "openai", "model": "gpt-4o-mini", "input_tokens": 10,
             "input_cached_tokens": 1, "output_tokens": 5},
            {"type": "stt", "provider": "openai", "model": "whisper-1", "audio_seconds": 1.5},
            {"type": "tts", "provider": "openai", "model": "tts-1", "characters": 3},
        ],
        "interruption_count": 1,
        "recording": {"expected": true, "egress_id": "EG_1", "url": "s3://bucket/key"},
    })
}

fn history(items: &Value) -> Value {
    let mut event = ended();
    event["source"] = json!({"kind": "livekit_history"});
    event["history"] = json!({ "items": items });
    event
}

fn with(pointer: &str, value: Value) -> Value {
    changed(ended(), pointer, value)
}

fn changed(mut event: Value, pointer: &str, value: Value) -> Value {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match event.pointer_mut(parent).unwrap() {
        Value::Object(members) => {
            members.insert(name.to_owned(), value);
        }
        Value::Array(elements) => elements[name.parse::<usize>().unwrap()] = value,
        _ => panic!("{pointer} has no parent"),
    }
    event
}

fn call(event: &Value) -> Call<'static> {
    match decode(event.to_string().as_bytes()).unwrap().into_owned() {
        Event::Ended(ended) => ended.call,
        other => panic!("{other:?}"),
    }
}

fn rejected(event: &Value) -> Rejection {
    rejected_text(&event.to_string())
}

fn rejected_text(event: &str) -> Rejection {
    let rejection = decode(event.as_bytes()).unwrap_err();
    check(&rejection, event);
    rejection
}

/// What holds for every rejection.
fn check(rejection: &Rejection, event: &str) {
    assert!(rejection.message.ends_with('.') && rejection.message.len() < 400, "{rejection:?}");
    assert!(rejection.message.starts_with(char::is_uppercase), "{rejection:?}");
    if rejection.code == FailureCode::MalformedJson {
        return;
    }
    let pointer = rejection.pointer.as_deref().unwrap();
    // Depth and numbers that `Value` cannot hold are for other tests.
    let Ok(event) = serde_json::from_str::<Value>(event) else { return };
    let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
    assert!(event.pointer(pointer).or(event.pointer(parent)).is_some(), "{rejection:?}");
}

fn code_and_pointer(event: &Value) -> (FailureCode, String) {
    let rejection = rejected(event);
    (rejection.code, rejection.pointer.unwrap())
}

fn invalid(pointer: &str) -> (FailureCode, String) {
    (FailureCode::InvalidEvent, pointer.to_owned())
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[test]
fn a_whole_event_of_the_neutral_form_is_read() {
    let call = call(&ended());
    assert_eq!(call.identity.tenant_id.as_str(), "acme");
    assert_eq!(call.identity.metadata.as_str(), r#"{"plan":"pro","seats":[1,2.5]}"#);
    assert_eq!(call.started_at, time("2026-05-28T14:20:43Z"));
    assert_eq!(call.ended_at, Some(time("2026-05-28T14:23:47.7Z")));
    assert_eq!(call.messages[0].started_speaking_at, Some(time("2026-05-28T14:20:43.5Z")));
    assert_eq!(call.messages[0].stopped_speaking_at, Some(time("2026-05-28T14:20:44.5Z")));
    assert!(call.messages[0].interrupted && !call.messages[1].interrupted);
    assert_eq!(call.usage[1].counts.audio_us, Some(1_500_000));
    assert_eq!(call.usage[2].counts.characters_count, Some(3));
    assert_eq!(call.interruption_count, Some(1));
    assert_eq!(call.recording.unwrap().egress_id, Some(Text::from("EG_1")));
}

#[test]
fn the_good_path_copies_no_text() {
    let event = ended().to_string();
    let Ok(Event::Ended(ended)) = decode(event.as_bytes()) else { panic!("{event}") };
    assert!(matches!(ended.call.messages[0].texts[0].0, std::borrow::Cow::Borrowed("Hi!")));
    assert!(matches!(ended.call.identity.tenant_id.0, std::borrow::Cow::Borrowed("acme")));
}

#[test]
fn a_null_is_as_good_as_absent() {
    let mut event = ended();
    for member in [
        "occurred_at",
        "user",
        "room_name",
        "room_id",
        "origin_url",
        "metadata",
        "ended_at",
        "close_reason",
        "usage",
        "interruption_count",
        "recording",
    ] {
        event[member] = Value::Null;
    }
    let mut absent = event.clone();
    absent.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    assert_eq!(decode(event.to_string().as_bytes()), decode(absent.to_string().as_bytes()));
    assert_eq!(call(&event).identity.metadata, Metadata::empty());
}

#[test]
fn each_missing_field_is_pointed_at() {
    for member in [
        "type",
        "schema_version",
        "event_id",
        "session_id",
        "tenant_id",
        "character_slug",
        "character_owner",
        "started_at",
        "source",
        "messages",
    ] {
        let mut event = ended();
        event.as_object_mut().unwrap().remove(member);
        assert_eq!(code_and_pointer(&event), invalid(&format!("/{member}")));
        event[member] = Value::Null;
        assert_eq!(code_and_pointer(&event), invalid(&format!("/{member}")));
    }
    assert_eq!(code_and_pointer(&with("/source", json!({}))), invalid("/source/kind"));
}

#[test]
fn each_wrong_value_is_pointed_at() {
    let long = "x".repeat(513);
    for (pointer, value) in [
        ("/tenant_id", json!(7)),
        ("/tenant_id", json!(long)),
        ("/event_id", json!(long)),
        ("/character_slug", json!("a\0b")),
        ("/character_owner", json!("7")),
        ("/character_owner", json!(7.5)),
        ("/user", json!([])),
        ("/room_name", json!(long)),
        ("/origin_url", json!("x".repeat(2049))),
        ("/metadata", json!([])),
        ("/metadata", json!({"long": "x".repeat(65_536)})),
        ("/metadata/plan", json!("\0")),
        ("/started_at", json!("yesterday")),
        ("/started_at", json!("2026-05-28T14:20:43")),
        ("/started_at", json!(true)),
        ("/started_at", json!(1e18)),
        ("/started_at", json!(-1e18)),
        ("/ended_at", json!("9999-12-31T23:59:59-01:00")),
        ("/close_reason", json!(1)),
        ("/source", json!("messages")),
        ("/source/kind", json!("vapi")),
        ("/messages", json!({})),
        ("/messages/0", json!("Hi!")),
        ("/messages/0/role", json!(1)),
        ("/messages/0/text", json!(["Hi!"])),
        ("/messages/0/text", Value::Null),
        ("/messages/1/started_at", json!("soon")),
        ("/messages/1/interrupted", json!("yes")),
        ("/messages/1/id", json!(long)),
        ("/usage", json!({})),
        ("/usage/0", json!(5)),
        ("/usage/0/input_tokens", json!(-1)),
        ("/usage/0/input_tokens", json!(1.5)),
        ("/usage/0/input_tokens", json!("10")),
        ("/usage/0/output_tokens", json!(1e300)),
        ("/usage/1/audio_seconds", json!(-0.5)),
        ("/usage/1/audio_seconds", json!(1e300)),
        ("/usage/2/characters", json!(3_000_000_000_000_i64)),
        ("/interruption_count", json!(-1)),
        ("/interruption_count", json!(3_000_000_000_i64)),
        ("/recording/expected", json!("yes")),
        ("/recording/egress_id", json!("\0")),
    ] {
        let mut expected = pointer.to_owned();
        if pointer == "/messages/0" {
            expected.push_str("/role");
        }
        assert_eq!(code_and_pointer(&with(pointer, value)), invalid(&expected));
    }
}

#[test]
fn a_rejection_says_which_event_it_is_about() {
    let rejection = rejected(&with("/tenant_id", json!(7)));
    assert_eq!(rejection.message, "Expected a string, found another integer.");
    assert_eq!(rejection.event_id.as_deref(), Some("e1"));
    assert_eq!(rejection.event_type.as_deref(), Some("session.ended"));
    assert_eq!(rejection.session_id.unwrap().as_u128() & 0xff, 1);
    let rejection = rejected(&json!({"type": "session.paused", "event_id": "e2", "usage": 5}));
    assert_eq!(rejection.code, FailureCode::UnsupportedType);
    assert_eq!(rejection.event_id.as_deref(), Some("e2"));
    assert_eq!(rejection.event_type.as_deref(), Some("session.paused"));
}

#[test]
fn type_and_version_come_before_everything_else() {
    for (event_type, version, code) in [
        ("session.paused", json!(2), FailureCode::UnsupportedType),
        ("session.ended", json!(2), FailureCode::UnsupportedVersion),
        ("session.ended", json!("1"), FailureCode::UnsupportedVersion),
        ("session.ended", json!(1.0), FailureCode::UnsupportedVersion),
    ] {
        let event = json!({"type": event_type, "schema_version": version, "session_id": 5});
        assert_eq!(rejected(&event).code, code);
    }
}

fn checkpoint() -> Value {
    let mut event = with("/type", json!("session.checkpoint"));
    event["sequence"] = json!(3);
    event
}

fn room() -> Value {
    json!({
        "type": "room.finished", "schema_version": 1, "event_id": "e7",
        "occurred_at": "2026-05-28T14:24:00Z", "room_id": "RM_1", "room_name": "room",
    })
}

#[test]
fn a_checkpoint_is_the_end_of_the_call_so_far() {
    let Ok(Event::Ended(end)) = decode(ended().to_string().as_bytes()).map(Event::into_owned)
    else {
        panic!("it ends a call")
    };
    for (sequence, as_integer) in [(json!(0), 0), (json!(3), 3), (json!(3.0), 3)] {
        let event = changed(checkpoint(), "/sequence", sequence).to_string();
        let Ok(Event::Checkpoint(checkpoint)) = decode(event.as_bytes()) else { panic!("{event}") };
        assert_eq!(checkpoint.sequence, as_integer);
        assert_eq!(checkpoint.so_far, *end, "the digest, too");
    }
    let mut without_end = checkpoint();
    without_end.as_object_mut().unwrap().remove("ended_at");
    assert!(decode(without_end.to_string().as_bytes()).is_ok());
}

#[test]
fn a_checkpoint_says_which_it_is() {
    for sequence in [Value::Null, json!(-1), json!("3"), json!(1.5), json!([3])] {
        let rejection = rejected(&changed(checkpoint(), "/sequence", sequence));
        assert_eq!(rejection.code, FailureCode::InvalidEvent);
        assert_eq!(rejection.pointer.as_deref(), Some("/sequence"));
    }
    let mut without = checkpoint();
    without.as_object_mut().unwrap().remove("sequence");
    let rejection = rejected(&without);
    assert_eq!(rejection.pointer.as_deref(), Some("/sequence"));
    assert_eq!(rejection.event_type.as_deref(), Some("session.checkpoint"));
    assert!(rejection.message.contains("a whole number"), "{}", rejection.message);
}

#[test]
fn a_checkpoint_needs_what_the_end_needs() {
    for member in ["tenant_id", "character_slug", "character_owner", "started_at", "messages"] {
        let mut event = checkpoint();
        event.as_object_mut().unwrap().remove(member);
        assert_eq!(rejected(&event).pointer, Some(format!("/{member}")));
    }
}

#[test]
fn other_events_may_hold_anything_in_a_checkpoints_members() {
    let event = with("/sequence", json!({"no": "number"})).to_string();
    assert_eq!(digest_of(&event), digest_of(&ended().to_string()));
}

#[test]
fn a_closed_room_names_itself_and_the_time() {
    let event = room().to_string();
    let Ok(Event::Room(found)) = decode(event.as_bytes()) else { panic!("{event}") };
    assert_eq!(found.room_id.as_ref().map(Text::as_str), Some("RM_1"));
    assert_eq!(found.room_name.as_ref().map(Text::as_str), Some("room"));
    assert_eq!((found.session_id, found.finished_at.timestamp()), (None, 1_779_978_240));
    for (members, pointer) in
        [(&["occurred_at"][..], "/occurred_at"), (&["room_id", "room_name"], "/room_id")]
    {
        let mut event = room();
        for member in members {
            event.as_object_mut().unwrap().remove(*member);
        }
        let rejection = rejected(&event);
        assert_eq!(rejection.code, FailureCode::InvalidEvent);
        assert_eq!(rejection.pointer.as_deref(), Some(pointer));
    }
    let named = changed(room(), "/session_id", json!("room"));
    assert_eq!(rejected(&named).code, FailureCode::InvalidSessionId);
    for (pointer, value) in [
        ("/room_id", json!("RM_2")),
        ("/room_name", json!("other")),
        ("/session_id", ended()["session_id"].clone()),
        ("/occurred_at", json!("2026-05-28T14:24:01Z")),
    ] {
        let other = changed(room(), pointer, value).to_string();
        assert_ne!(digest_of(&other), digest_of(&event), "{pointer}");
    }
    let copy = changed(room(), "/event_id", json!("e8")).to_string();
    assert_eq!(digest_of(&copy), digest_of(&event));
}

#[test]
fn both_ways_read_checkpoints_and_rooms() {
    for event in [checkpoint(), room()] {
        let text = event.to_string();
        let fast = decode_fast(&text).unwrap();
        assert_eq!(decode_carefully(&text), Ok(fast.clone()));
        assert_eq!(fast.clone().into_owned(), fast);
    }
}

#[test]
fn a_session_id_is_a_uuid_of_36_characters() {
    for id in [
        json!("sess_a1b2c3"),
        json!("01979f3a5b0070008000000000000001"),
        json!("{01979f3a-5b00-7000-8000-000000000001}"),
        json!("01979f3a-5b00-7000-8000-00000000000g"),
        json!(5),
    ] {
        let rejection = rejected(&with("/session_id", id));
        assert_eq!(rejection.code, FailureCode::InvalidSessionId);
        assert_eq!(rejection.pointer.as_deref(), Some("/session_id"));
    }
}

#[test]
fn what_is_no_json_is_said_to_be_none() {
    for (text, part) in [
        ("", "empty"),
        (" \n", "empty"),
        ("{\"type\": ", "EOF"),
        ("{} {}", "trailing"),
        ("{\"a\": NaN}", "NaN, Infinity"),
        ("{\"a\":\n -Infinity}", "NaN, Infinity"),
        ("{\"a\": [1, Infinity, \"x\"]}", "NaN, Infinity"),
        ("{\"NaN\": }", "expected value"),
        ("{'a': 1}", "key must be a string"),
        ("{\"a\": \"\u{1}\"}", "control character"),
    ] {
        let rejection = rejected_text(text);
        assert_eq!(rejection.code, FailureCode::MalformedJson, "{text}");
        assert!(rejection.message.contains(part), "{text}: {}", rejection.message);
    }
    let mut latin1 = ended().to_string().into_bytes();
    let offset = latin1.iter().position(|byte| *byte == b'H').unwrap();
    latin1[offset] = 0xe9;
    assert_eq!(decode(&latin1).unwrap_err().code, FailureCode::MalformedJson);
    let ignored = b"{\"ignored\": \"\xff\"}";
    assert_eq!(decode(ignored).unwrap_err().code, FailureCode::MalformedJson);
}

#[test]
fn json_that_is_no_object_is_no_event() {
    for text in ["[]", "5", "null", "\"x\"", "[\"session.ended\", 1]"] {
        let rejection = rejected_text(text);
        assert_eq!(
            (rejection.code, rejection.pointer),
            (FailureCode::InvalidEvent, Some(String::new()))
        );
    }
}

#[test]
fn arrays_do_not_pass_for_objects() {
    assert_eq!(code_and_pointer(&with("/recording", json!([true]))), invalid("/recording"));
    assert_eq!(code_and_pointer(&with("/usage/0", json!(["llm"]))), invalid("/usage/0"));
    let mut event = history(&json!([]));
    event["history"] = json!([[]]);
    assert_eq!(code_and_pointer(&event), invalid("/history"));
}

#[test]
fn duplicate_fields_are_refused_where_they_are_kept_and_ignored_elsewhere() {
    let event = ended().to_string();
    let twice =
        |member: &str, text: &str| event.replacen('{', &format!("{{\"{member}\":{text},"), 1);
    for (member, text) in
        [("tenant_id", "\"x\""), ("messages", "[]"), ("type", "\"session.ended\"")]
    {
        let rejection = rejected_text(&twice(member, text));
        assert_eq!((rejection.code, rejection.pointer.unwrap()), invalid(&format!("/{member}")));
    }
    let unknown = twice("unknown", "1").replacen('{', "{\"unknown\":2,", 1);
    assert!(decode(unknown.as_bytes()).is_ok());
    // Another kind's body is none of this event's.
    let report = twice("report", "1").replacen('{', "{\"report\":2,", 1);
    assert!(decode(report.as_bytes()).is_ok());
    let metadata = event.replace(r#""plan":"pro""#, r#""plan":"pro","\u0070lan":"free""#);
    assert_eq!(rejected_text(&metadata).pointer.as_deref(), Some("/metadata/plan"));
    let message = event.replace(r#""text":"Hello""#, r#""text":"Hello","text":"Hello""#);
    assert_eq!(rejected_text(&message).pointer.as_deref(), Some("/messages/1/text"));
}

#[test]
fn fields_of_other_types_of_event_may_hold_anything() {
    let mut started = ended();
    started["type"] = json!("session.started");
    for member in ["source", "messages", "usage", "recording", "ended_at", "egress"] {
        started[member] = json!(["anything"]);
    }
    assert!(matches!(decode(started.to_string().as_bytes()), Ok(Event::Started(_))));
    let recording = json!({
        "type": "recording.updated", "schema_version": 1, "event_id": "e", "metadata": 5,
        "started_at": "soon", "egress": {"egressId": "EG_1"}, "room_id": "RM_1",
    });
    let Ok(Event::Recording(recording)) =
        decode(recording.to_string().as_bytes()).map(Event::into_owned)
    else {
        panic!("{recording}")
    };
    assert_eq!(recording.egress.room_id.as_deref(), Some("RM_1"));
    assert_eq!(recording.egress.status, EgressStatus::Starting);
}

#[test]
fn only_messages_of_user_and_assistant_are_kept() {
    let call = call(&history(&json!([
        {"type": "agent_config_update", "instructions": "SECRET", "content": 5, "id": ["x"]},
        {"type": "message", "role": "system", "content": {"SECRET": 1}, "created_at": "never"},
        {"type": "function_call_output", "output": "SECRET", "role": "user", "content": ["SECRET"]},
        {"type": "message", "content": ["SECRET"]},
        {"type": 5}, "SECRET", ["message", "user"], null,
        {"type": "message", "role": "user", "content": "kept"},
    ])));
    assert_eq!(call.messages.len(), 1);
    assert!(!format!("{call:?}").contains("SECRET"));
}

#[test]
fn the_parts_of_a_message_are_told_apart() {
    let call = call(&history(&json!([{
        "content": [
            "one", {"type": "audio_content", "transcript": "heard", "frame": [[1]]},
            {"type": "image_content", "transcript": "no"}, {"type": "audio_content"},
            {"text": "no"}, 5, -5, 1.5, null, true, [["no"]], "tw\u{0}o",
            {"type": "audio_content", "transcript": null},
        ],
        "role": "assistant", "type": "message", "created_at": 1_779_978_043_500_i64,
        "metrics": {"tts_metadata": {"model_name": "tts-1", "model_provider": null}},
    }])));
    let message = &call.messages[0];
    assert_eq!(message.texts, [Text::from("one"), Text::from("tw\0o")]);
    assert_eq!(message.audio_transcripts, [Text::from("heard")]);
    assert_eq!(message.created_at, Some(time("2026-05-28T14:20:43.5Z")));
    assert_eq!(message.voice.as_ref().unwrap().model.as_str(), "tts-1");
}

#[test]
fn a_history_of_no_known_shape_is_refused_and_an_empty_one_is_not() {
    let event = history(&json!([{"message": {"role": "USER", "content": [{"text": "SECRET"}]}}]));
    let rejection = rejected(&event);
    assert_eq!(rejection.pointer.as_deref(), Some("/history/items"));
    assert!(rejection.message.contains("to_dict(exclude_timestamp=False)"));
    for items in [
        json!([{"type": "message", "role": "USER", "content": ["SECRET"]}]),
        json!([{"type": "message", "role": "agent", "content": ["SECRET"]}, {"type": ""}]),
        json!(["SECRET", null]),
    ] {
        assert_eq!(code_and_pointer(&history(&items)), invalid("/history/items"));
    }
    for role in ["USER", "agent", ""] {
        let messages = json!([{"role": role, "text": "SECRET"}]);
        assert_eq!(code_and_pointer(&with("/messages", messages)), invalid("/messages"));
    }
    assert!(call(&with("/messages", json!([{"role": "tool"}]))).messages.is_empty());
    let system = json!([{"type": "message", "role": "system", "content": ["SECRET"]}]);
    assert!(call(&history(&system)).messages.is_empty());
    assert!(call(&history(&json!([]))).messages.is_empty());
    assert!(call(&history(&json!([{"type": "agent_handoff"}]))).messages.is_empty());
    assert!(call(&with("/messages", json!([]))).messages.is_empty());
}

#[test]
fn a_wrong_value_in_a_kept_item_is_pointed_at() {
    let event = |field: &str, value: Value| {
        let items =
            json!([{"type": "agent_handoff"}, {"type": "message", "role": "user", "metrics": {}}]);
        changed(history(&items), &format!("/history/items/1/{field}"), value)
    };
    for (field, value) in [
        ("content", json!({})),
        ("created_at", json!("soon")),
        ("interrupted", json!(1)),
        ("metrics", json!([])),
        ("metrics/started_speaking_at", json!([])),
        ("metrics/tts_metadata", json!("x")),
    ] {
        let expected = invalid(&format!("/history/items/1/{field}"));
        assert_eq!(code_and_pointer(&event(field, value)), expected);
    }
}

#[test]
fn roles_that_do_not_speak_are_skipped_in_the_neutral_form() {
    let call = call(&with(
        "/messages",
        json!([
            {"role": "system", "text": {"SECRET": 1}, "started_at": "never"},
            {"role": "tool"},
            {"role": "user", "text": "kept"},
        ]),
    ));
    assert_eq!(call.messages.len(), 1);
    assert_eq!(call.messages[0].started_speaking_at, None);
}

#[test]
fn usage_is_kept_by_type() {
    let call = call(&with(
        "/usage",
        json!([
            {"type": "llm_usage", "input_tokens": 12.0, "input_cached_tokens": null},
            {"type": "eot_usage", "total_requests": 5, "input_tokens": "anything"},
            {"type": "vad"},
            {"total_requests": 5, "provider": "x"},
            {"total_requests": 5, "input_tokens": 1},
            {"provider": "y", "characters_count": 0},
            {"type": "stt_usage", "audio_duration": 20.049_999_999_999_983},
        ]),
    ));
    let counts: Vec<_> = call.usage.iter().map(|entry| entry.counts).collect();
    assert_eq!(counts.len(), 4);
    assert_eq!(counts[0].input_tokens, Some(12));
    assert_eq!(counts[0].input_cached_tokens, None);
    assert_eq!(counts[1].input_tokens, Some(1));
    assert_eq!(counts[2].characters_count, Some(0));
    assert_eq!(counts[3].audio_us, Some(20_050_000));
    let indexes: Vec<_> = call.usage.iter().map(|entry| entry.index).collect();
    assert_eq!(indexes, [0, 4, 5, 6], "places in what was sent");
}

#[test]
fn times_are_cut_to_microseconds_and_milliseconds_are_recognised() {
    for (text, expected) in [
        ("\"2026-05-28T16:20:43.1234567+02:00\"", "2026-05-28T14:20:43.123456Z"),
        ("1779978043.1234567", "2026-05-28T14:20:43.123456Z"),
        ("1780000003.18", "2026-05-28T20:26:43.180Z"),
        ("1779978043123.4567", "2026-05-28T14:20:43.123456Z"),
        ("1779978043", "2026-05-28T14:20:43Z"),
        ("1779978043000", "2026-05-28T14:20:43Z"),
        ("1.779978043e9", "2026-05-28T14:20:43Z"),
        ("\"0000-01-01T00:00:00Z\"", "0000-01-01T00:00:00Z"),
        ("100000000000", "5138-11-16T09:46:40Z"),
        ("100000000001", "1973-03-03T09:46:40.001Z"),
    ] {
        let event = with("/ended_at", json!("END")).to_string().replace("\"END\"", text);
        let Ok(Event::Ended(ended)) = decode(event.as_bytes()) else { panic!("{text}") };
        assert_eq!(ended.call.ended_at, Some(time(expected)), "{text}");
    }
}

#[test]
fn numbers_beyond_all_measure_fail_clearly() {
    for pointer in [
        "/usage/0/input_tokens",
        "/usage/1/audio_seconds",
        "/ended_at",
        "/user",
        "/interruption_count",
        "/metadata/plan",
        "/tenant_id",
        "/messages/0/started_at",
    ] {
        for number in ["1e999", "-1e999", &"9".repeat(400)] {
            let event = with(pointer, json!("NUMBER")).to_string().replace("\"NUMBER\"", number);
            let rejection = rejected_text(&event);
            assert_eq!((rejection.code, rejection.pointer.unwrap()), invalid(pointer), "{number}");
        }
    }
    let ignored = with("/ignored", json!("NUMBER")).to_string().replace("\"NUMBER\"", "1e999");
    assert!(decode(ignored.as_bytes()).is_ok());
}

#[test]
fn deep_nesting_is_ignored_or_refused_but_never_followed() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let objects = "{\"a\":".repeat(100_000) + "1" + &"}".repeat(100_000);
    for value in [&deep, &objects] {
        let at =
            |pointer: &str| with(pointer, json!("DEEP")).to_string().replace("\"DEEP\"", value);
        assert!(decode(at("/ignored").as_bytes()).is_ok());
        assert!(decode(at("/messages/0/extra").as_bytes()).is_ok());
        for pointer in ["/metadata", "/metadata/plan", "/tenant_id", "/type", "/source", "/usage"] {
            assert!(decode(at(pointer).as_bytes()).is_err(), "{pointer}");
        }
    }
    let nested = |levels: usize| {
        let value = "[".repeat(levels) + &"]".repeat(levels);
        with("/metadata", json!({"deep": "DEEP"})).to_string().replace("\"DEEP\"", &value)
    };
    assert!(decode(nested(31).as_bytes()).is_ok());
    assert!(rejected_text(&nested(32)).pointer.unwrap().starts_with("/metadata/deep/0"));
}

#[test]
fn lone_surrogates_become_the_replacement_character_wherever_they_stand() {
    let event = ended().to_string();
    for (from, to) in [
        (r#""text":"Hi!""#, r#""text":"H\ud83di!""#),
        (r#""plan":"#, r#""pl\udc00an":"#),
        (r#""text":"Hi!""#, r#""\ud800":1,"text":"Hi!""#),
        (r#""tenant_id":"#, r#""\ud800":[{"\udfff":"\uD800"}],"tenant_id":"#),
    ] {
        let lone = event.replace(from, to);
        assert_ne!(lone, event);
        let replaced = lone.replace(r"\ud83d", "\u{fffd}").replace(r"\udc00", "\u{fffd}");
        let replaced = replaced.replace(r"\ud800", "\u{fffd}");
        assert_eq!(decode(lone.as_bytes()).unwrap(), decode(replaced.as_bytes()).unwrap());
    }
}

#[test]
fn nothing_that_was_said_is_in_a_rejection() {
    for event in [
        with("/messages/0/interrupted", json!("SECRET")),
        with("/messages/0/started_at", json!("SECRET")),
        with("/messages/0/text", json!({"SECRET": "SECRET"})),
        with("/messages", json!("SECRET")),
        with("/recording", json!("SECRET, expected SECRET")),
        with("/metadata/SECRET", json!({"x": "\0"})),
        history(&json!([{"type": "message", "role": "user", "content": {"text": "SECRET"}}])),
        history(&json!("SECRET")),
    ] {
        let rejection = rejected(&event);
        assert!(!rejection.message.contains("SECRET"), "{rejection:?}");
    }
    let cut = ended().to_string().replace("Hello\"", "SECRET");
    assert!(!rejected_text(&cut).message.contains("SECRET"));
}

#[test]
fn metadata_keeps_its_order_and_its_digits() {
    let event = with("/metadata", json!("META")).to_string();
    let read = |metadata: &str| {
        let event = event.replace("\"META\"", metadata);
        let Ok(Event::Ended(ended)) = decode(event.as_bytes()) else { panic!("{metadata}") };
        (ended.call.identity.metadata.clone(), ended.digest)
    };
    let (metadata, digest) =
        read("{ \"b\": 1.50, \"a\": [ 1E2, {\"z\": \"\\u0041\\n\", \"y\": null} ] }");
    assert_eq!(metadata.as_str(), r#"{"b":1.50,"a":[1E2,{"z":"A\n","y":null}]}"#);
    assert_eq!(read(r#"{"a":[1E2,{"y":null,"z":"A\u000a"}],"b":1.50}"#).1, digest);
    assert_ne!(read(r#"{"a":[1E2,{"y":null,"z":"A\u000a"}],"b":1.5}"#).1, digest);
    assert_eq!(read("null").0, Metadata::empty());
}

#[test]
fn an_event_that_cannot_be_read_is_named_by_its_beginning() {
    let names = |rejection: &Rejection| {
        assert_eq!(rejection.event_id.as_deref(), Some("e1"), "{rejection:?}");
        assert_eq!(rejection.event_type.as_deref(), Some("session.ended"));
        assert!(rejection.session_id.is_some());
    };
    let identity = r#"{"type": "session.ended", "event_id": "e1",
        "session_id": "01979f3a-5b00-7000-8000-000000000001", "#;
    names(&rejected_text(&format!("{identity} \"report\": {{\"items\": [")));
    names(&rejected_text(&format!("{identity} \"user\": NaN}}")));
    let mut bytes = format!("{identity} \"tenant_id\": \"").into_bytes();
    bytes.resize(100_000, 0xff);
    names(&decode(&bytes).unwrap_err());
    let rejection = Rejection::too_large(&bytes, 10_000);
    names(&rejection);
    assert_eq!(rejection.code, FailureCode::TooLarge);
    assert!(rejection.message.contains(" 10000 ") && rejection.message.ends_with('.'));
}

#[test]
fn a_rejection_of_the_finalizer_is_told_which_event_it_is_about() {
    let event = ended().to_string();
    let rejection = Rejection::invalid("/started_at", "Expected an earlier time.");
    let rejection = rejection.about(&decode(event.as_bytes()).unwrap());
    assert_eq!(rejection.event_id.as_deref(), Some("e1"));
    assert_eq!(rejection.event_type.as_deref(), Some("session.ended"));
    assert!(rejection.session_id.is_some());
}

fn digest_of(event: &str) -> Digest {
    match decode(event.as_bytes()).unwrap() {
        Event::Started(started) => started.digest,
        Event::Ended(ended) => ended.digest,
        Event::Checkpoint(checkpoint) => checkpoint.so_far.digest,
        Event::Room(room) => room.digest,
        Event::Recording(_) => panic!("recordings have no digest"),
    }
}

#[test]
fn the_digest_covers_every_field_that_is_kept() {
    let mut digests = vec![digest_of(&ended().to_string())];
    for (pointer, value) in [
        ("/session_id", json!("01979f3a-5b00-7000-8000-000000000002")),
        ("/tenant_id", json!("other")),
        ("/character_slug", json!("other")),
        ("/character_owner", json!(9)),
        ("/user", json!(9)),
        ("/user", Value::Null),
        ("/room_name", json!("other")),
        ("/room_id", json!("other")),
        ("/origin_url", json!("other")),
        ("/metadata/plan", json!("other")),
        ("/started_at", json!("2026-05-28T14:20:43.000001Z")),
        ("/ended_at", json!("2026-05-28T14:23:47.700001Z")),
        ("/ended_at", Value::Null),
        ("/close_reason", json!("other")),
        ("/messages/0/id", json!("other")),
        ("/messages/0/role", json!("user")),
        ("/messages/0/text", json!("Hi! ")),
        ("/messages/0/started_at", json!(1_779_978_043.4)),
        ("/messages/0/ended_at", json!(1_779_978_044.4)),
        ("/messages/0/interrupted", json!(false)),
        ("/messages/1/role", json!("system")),
        ("/usage/0/type", json!("stt")),
        ("/usage/0/provider", json!("other")),
        ("/usage/0/model", json!("other")),
        ("/usage/0/input_tokens", json!(11)),
        ("/usage/0/input_cached_tokens", json!(0)),
        ("/usage/0/input_cached_tokens", Value::Null),
        ("/usage/1/audio_seconds", json!(1.4)),
        ("/usage/2/characters", json!(4)),
        ("/interruption_count", json!(0)),
        ("/recording/expected", json!(false)),
        ("/recording/egress_id", json!("other")),
        ("/recording/url", json!("other")),
        ("/recording", Value::Null),
    ] {
        digests.push(digest_of(&with(pointer, value).to_string()));
    }
    let mut event = ended();
    event["messages"].as_array_mut().unwrap().reverse();
    digests.push(digest_of(&event.to_string()));
    event["type"] = json!("session.started");
    digests.push(digest_of(&event.to_string()));
    let count = digests.len();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), count);
}

#[test]
fn the_digest_covers_nothing_else() {
    let digest = digest_of(&ended().to_string());
    for (pointer, value) in [
        ("/event_id", json!("other")),
        ("/occurred_at", json!("2026-06-01T00:00:00Z")),
        ("/unknown", json!("other")),
        ("/messages/0/unknown", json!("other")),
        ("/source/unknown", json!("other")),
        ("/started_at", json!(1_779_978_043_000_i64)),
        ("/session_id", json!("01979F3A-5B00-7000-8000-000000000001")),
    ] {
        assert_eq!(digest_of(&with(pointer, value).to_string()), digest, "{pointer}");
    }
    let mut event = ended();
    event["usage"].as_array_mut().unwrap().insert(0, json!({"type": "vad"}));
    assert_eq!(digest_of(&event.to_string()), digest, "an entry of another type, and all places");
}

/// A later release must take copies of old events for copies: if this test fails, the digest of
/// what is stored has changed, and every redelivered event becomes a `conflicting_event`.
#[test]
fn digests_stay_what_they_are_for_ever() {
    let golden = include_str!("digests.txt");
    let mut found = String::new();
    for (name, event) in fixtures() {
        let digest = match decode(event.as_bytes()).unwrap() {
            Event::Started(started) => started.digest,
            Event::Ended(ended) => ended.digest,
            Event::Checkpoint(_) | Event::Recording(_) | Event::Room(_) => continue,
        };
        writeln!(found, "{} {name}", hex::encode(digest)).unwrap();
    }
    assert_eq!(found, golden);
}

#[test]
fn the_careful_way_reads_what_the_fast_way_reads() {
    for (name, event) in fixtures() {
        let fast = decode_fast(&event).unwrap_or_else(|| panic!("{name} takes the slow way"));
        assert_eq!(decode_carefully(&event), Ok(fast), "{name}");
    }
}

/// The same JSON, members in the order of `seed`, strings escaped where `seed` says, with white
/// space; numbers digit for digit.
fn rewritten(json: &str, seed: &mut u64) -> String {
    match json.as_bytes()[0] {
        b'{' => {
            let mut members = Members::of(json).unwrap().0;
            for index in (1..members.len()).rev() {
                members.swap(index, next(seed, index + 1));
            }
            let members: Vec<_> = members
                .iter()
                .map(|(name, value)| {
                    format!("{} :\n{}", escaped(name.as_str(), seed), rewritten(value.get(), seed))
                })
                .collect();
            format!("{{ {} }}", members.join(" , "))
        }
        b'[' => {
            let elements: Vec<&RawValue> = serde_json::from_str(json).unwrap();
            let elements: Vec<_> =
                elements.iter().map(|element| rewritten(element.get(), seed)).collect();
            format!("[ {}\t]", elements.join(","))
        }
        b'"' => escaped(&serde_json::from_str::<String>(json).unwrap(), seed),
        _ => json.to_owned(),
    }
}

/// A number below `limit`.
fn next(seed: &mut u64, limit: usize) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*seed >> 33).unwrap() % limit
}

fn escaped(text: &str, seed: &mut u64) -> String {
    let mut json = String::from("\"");
    for character in text.chars() {
        if next(seed, 3) == 0 {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(json, "\\u{unit:04x}").unwrap();
            }
        } else {
            let quoted = serde_json::to_string(&character).unwrap();
            json += &quoted[1..quoted.len() - 1];
        }
    }
    json + "\""
}

fn any_fixture() -> impl Strategy<Value = String> {
    let fixtures = fixtures();
    (0..fixtures.len()).prop_map(move |index| fixtures[index].1.clone())
}

/// What has no place in most fields.
fn odd_value() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "null",
        "true",
        "-1",
        "0",
        "1.5",
        "1e999",
        "1e-999",
        "-0",
        "1e15",
        "99999999999999999999",
        "\"\"",
        "\"x\"",
        "\"\\u0000\"",
        "\"\\ud83d\"",
        "\"2026-05-28T14:20:43Z\"",
        "\"message\"",
        "[]",
        "[[]]",
        "[null]",
        "[\"x\"]",
        "[{}]",
        "{}",
        "{\"a\":1,\"a\":2}",
        "{\"kind\":\"messages\"}",
        "{\"type\":\"message\",\"role\":\"user\",\"content\":[5]}",
    ])
    .prop_map(str::to_owned)
}

/// A good event with one value, somewhere, replaced by an odd one.
fn event_with_an_odd_value() -> impl Strategy<Value = String> {
    (any_fixture(), any::<prop::sample::Index>(), odd_value()).prop_map(|(event, place, odd)| {
        let mut event: Value = serde_json::from_str(&event).unwrap();
        let mut pointers = Vec::new();
        collect_pointers(&event, String::new(), &mut pointers);
        *event.pointer_mut(&pointers[place.index(pointers.len())]).unwrap() = json!("ODD VALUE");
        event.to_string().replace("\"ODD VALUE\"", &odd)
    })
}

fn collect_pointers(value: &Value, pointer: String, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.replace('/', "~1"), value)).collect()
        }
        Value::Array(elements) => {
            elements.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        _ => Vec::new(),
    };
    for (token, child) in children {
        collect_pointers(child, format!("{pointer}/{token}"), found);
    }
    found.push(pointer);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_bytes_make_decode_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(rejection) = decode(&bytes) {
            check(&rejection, &String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn no_damage_to_a_good_event_makes_decode_panic(
        event in any_fixture(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..4),
    ) {
        let mut bytes = event.into_bytes();
        for (place, byte, how) in damage {
            let place = place.index(bytes.len());
            match how {
                0 => bytes[place] = byte,
                1 => bytes.insert(place, byte),
                _ => bytes.truncate(place.max(1)),
            }
        }
        if let Err(rejection) = decode(&bytes) {
            check(&rejection, &String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn an_odd_value_is_refused_with_a_pointer_or_does_not_matter(event in event_with_an_odd_value()) {
        match decode(event.as_bytes()) {
            Err(rejection) => check(&rejection, &event),
            Ok(_) => {
                if let Some(fast) = decode_fast(&event) {
                    prop_assert_eq!(decode_carefully(&event), Ok(fast));
                }
            }
        }
    }

    #[test]
    fn the_same_content_written_otherwise_is_the_same_event(event in any_fixture(), seed in any::<u64>()) {
        let mut seed = seed;
        let rewritten = rewritten(event.trim(), &mut seed);
        let (one, other) = (decode(event.as_bytes()).unwrap(), decode(rewritten.as_bytes()).unwrap());
        match (one, other) {
            (Event::Started(one), Event::Started(other)) => prop_assert_eq!(one.digest, other.digest),
            (Event::Ended(one), Event::Ended(other)) => prop_assert_eq!(one.digest, other.digest),
            (one, other) => prop_assert_eq!(one, other),
        }
    }

    #[test]
    fn a_lone_half_never_fails_an_event(
        event in any_fixture(), places in prop::collection::vec(any::<prop::sample::Index>(), 1..5),
    ) {
        // Turn texts and unknown members: all that is not an id, a time or a word of ours.
        let mut value: Value = serde_json::from_str(&event).unwrap();
        value["unknown"] = json!({"text": ["a", "b"]});
        for place in places {
            let text = ["/unknown/text/0", "/unknown/text/1", "/messages/1/text",
                        "/report/chat_history/items/2/content/0", "/history/items/3/content/0"];
            if let Some(text) = value.pointer_mut(text[place.index(text.len())]) {
                *text = json!("LONE");
            }
        }
        let lone = value.to_string().replace("LONE", "\\uD83dx\\ude00");
        let replaced = value.to_string().replace("LONE", "\u{fffd}x\u{fffd}");
        prop_assert_eq!(decode(lone.as_bytes()).unwrap(), decode(replaced.as_bytes()).unwrap());
    }
}
