//! Real samples through the front door: what published SDKs write is read, whole and right.

use finalizer::event::{Call, EgressStatus, Event, FailureCode, Role, SourceKind, decode};

fn fixture(path: &str) -> String {
    let path = format!("{}/tests/fixtures/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn call(name: &str) -> Call<'static> {
    let event = fixture(&format!("events/{name}.json"));
    match decode(event.as_bytes()).map(Event::into_owned) {
        Ok(Event::Ended(ended)) => ended.call,
        other => panic!("{name}: {other:?}"),
    }
}

fn said(call: &Call<'_>) -> Vec<(Role, String)> {
    let text = |message: &finalizer::event::Message<'_>| {
        message.texts.iter().map(finalizer::event::Text::as_str).collect::<Vec<_>>().join("\n")
    };
    call.messages.iter().map(|message| (message.role, text(message))).collect()
}

#[test]
fn a_report_of_sdk_1_8_9_is_read_whole() {
    let call = call("call_interrupted_tool_unicode");
    assert_eq!(call.source, SourceKind::LivekitSessionReport);
    assert_eq!(call.messages.len(), 9);
    assert_eq!(call.messages[6].texts[0].as_str(), "Once upon a time, in a land far");
    assert!(call.messages[6].interrupted);
    let started = call.messages[6].started_speaking_at.unwrap();
    assert_eq!(started.timestamp_micros(), 1_795_353_642_057_292);
    let voice = call.messages[6].voice.as_ref().unwrap();
    assert_eq!((voice.provider.as_str(), voice.model.as_str()), ("chatterbox", "chatterbox-en-v1"));
    assert_eq!(call.identity.room_id.unwrap().as_str(), "RM_sample00001");
    assert_eq!(call.close_reason.unwrap().as_str(), "user_initiated");
    assert_eq!(call.report_duration_ms, Some(27_732));
    assert_eq!(call.report_timestamp.unwrap().timestamp_micros(), 1_795_353_653_052_924);
    assert_eq!(call.usage.len(), 3);
    assert_eq!(call.usage[0].counts.input_tokens, Some(341));
    assert_eq!(call.usage[1].counts.audio_us, Some(20_050_000));
    assert!(call.recording.unwrap().expected);
}

#[test]
fn no_prompt_and_no_tool_result_survives_decoding() {
    for name in [
        "call_interrupted_tool_unicode",
        "call_livekit_1_8_9",
        "call_livekit_1_5_9",
        "call_livekit_edge_cases",
        "call_no_speech",
        "call_pipecat",
    ] {
        let event = fixture(&format!("events/{name}.json"));
        assert!(event.contains("SECRET"), "{name} has nothing to leak");
        let kept = format!("{:?}", decode(event.as_bytes()).unwrap());
        assert!(!kept.contains("SECRET") && !kept.contains("call_1"), "{name}: {kept}");
    }
}

#[test]
fn a_call_in_which_nobody_spoke_is_a_call() {
    let call = call("call_no_speech");
    assert!(call.messages.is_empty() && call.usage.is_empty());
    assert_eq!(call.identity.user, None);
    assert_eq!(call.identity.metadata.as_str(), "{}");
}

#[test]
fn unicode_arrives_as_it_was_sent() {
    let said = said(&call("call_unicode_typed"));
    assert_eq!(said[0], (Role::User, "Grüß Gott, 東京 bitte — नमस्ते".to_owned()));
    assert_eq!(said[1], (Role::Assistant, "Schön! Züge nach 東京, नमस्ते, שלום.".to_owned()));
    assert_eq!(said[3], (Role::Assistant, "You typed: café ☕".to_owned()));
}

#[test]
fn reports_of_older_sdks_and_of_javascript_are_read() {
    let old = call("call_livekit_1_3");
    assert_eq!(old.messages.len(), 3);
    assert!(old.usage.is_empty() && old.report_duration_ms.is_none());
    let untyped = call("call_livekit_1_5_9");
    assert_eq!(untyped.usage.len(), 2);
    assert!(untyped.usage.iter().all(|entry| entry.kind.is_none()));
    assert_eq!(untyped.started_at.timestamp_micros(), 1_795_355_039_536_035);
    let javascript = call("call_agents_js");
    assert_eq!(javascript.report_timestamp.unwrap().timestamp_millis(), 1_795_353_660_068);
    assert_eq!(javascript.started_at.timestamp_millis(), 1_795_353_653_062);
}

#[test]
fn a_history_and_its_report_hold_the_same_messages() {
    let history = call("call_livekit_history");
    let report = call("call_interrupted_tool_unicode");
    assert_eq!(history.source, SourceKind::LivekitHistory);
    assert_eq!(history.messages, report.messages);
    assert_eq!(history.usage.len(), report.usage.len());
}

#[test]
fn the_edges_of_a_history_are_read() {
    let call = call("call_livekit_edge_cases");
    let audio = call.messages.iter().find(|message| !message.audio_transcripts.is_empty());
    assert!(audio.is_some_and(|message| message.texts.is_empty()));
    let with_nul = call
        .messages
        .iter()
        .find(|message| message.texts.iter().any(|text| text.as_str().contains('\0')));
    assert!(with_nul.is_some());
    assert!(said(&call).contains(&(Role::Assistant, "Line one.\nLine two.".to_owned())));
    assert_eq!(call.usage.len(), 5);
}

#[test]
fn a_call_of_pipecat_is_read() {
    let call = call("call_pipecat");
    assert_eq!(call.messages.len(), 7);
    assert_eq!(call.messages[1].texts[0].as_str(), "Great — what day works for you? 🎉 東京");
    assert_eq!(call.usage[0].counts.input_cached_tokens, Some(512));
    assert_eq!(call.usage[1].counts.characters_count, Some(1284));
    assert_eq!(call.usage[2].counts.audio_us, Some(92_300_000));
}

#[test]
fn every_state_of_a_recording_is_read() {
    for (name, status, is_stored) in [
        ("starting", EgressStatus::Starting, false),
        ("active", EgressStatus::Active, false),
        ("ending", EgressStatus::Ending, false),
        ("complete", EgressStatus::Complete, true),
        ("complete_snake_case", EgressStatus::Complete, true),
        ("complete_no_file", EgressStatus::Complete, false),
        ("limit_reached", EgressStatus::Complete, true),
        ("backup_storage", EgressStatus::Complete, true),
        ("failed", EgressStatus::Failed, false),
        ("aborted", EgressStatus::Aborted, false),
    ] {
        let event = fixture(&format!("events/recording_{name}.json"));
        let Ok(Event::Recording(recording)) = decode(event.as_bytes()) else { panic!("{name}") };
        let egress = recording.egress;
        assert_eq!((egress.egress_id.as_str(), egress.status), ("EG_sample0001", status), "{name}");
        assert_eq!(egress.room_id.as_deref(), Some("RM_sample00001"), "{name}");
        assert_eq!(egress.updated_at_ns, 1_780_000_185_000_000_000, "{name}");
        assert_eq!(egress.is_backup_only, name == "backup_storage");
        assert_eq!(egress.file.is_some_and(|file| file.is_stored), is_stored, "{name}");
    }
}

#[test]
fn both_spellings_of_an_egress_are_the_same_egress() {
    let camel = fixture("events/recording_complete.json");
    let snake = fixture("events/recording_complete_snake_case.json");
    let (Ok(Event::Recording(camel)), Ok(Event::Recording(snake))) =
        (decode(camel.as_bytes()), decode(snake.as_bytes()))
    else {
        panic!("both are recordings")
    };
    assert_eq!(camel.egress, snake.egress);
    let file = camel.egress.file.unwrap();
    assert_eq!(file.bucket.as_deref(), Some("oshara-recordings"));
    assert_eq!((file.filename.as_str(), file.size), ("sess_a1b2c3.mp4", 2_956_123));
    assert_eq!(file.started_at.unwrap().timestamp(), 1_780_000_000);
}

#[test]
fn each_bad_event_gets_its_code() {
    for (name, code, pointer) in [
        ("malformed_json_truncated", FailureCode::MalformedJson, None),
        ("malformed_json_nan", FailureCode::MalformedJson, None),
        ("unsupported_type", FailureCode::UnsupportedType, Some("/type")),
        ("unsupported_version", FailureCode::UnsupportedVersion, Some("/schema_version")),
        ("invalid_session_id", FailureCode::InvalidSessionId, Some("/session_id")),
        ("invalid_event_missing_tenant", FailureCode::InvalidEvent, Some("/tenant_id")),
        ("invalid_event_started_at", FailureCode::InvalidEvent, Some("/started_at")),
        ("invalid_event_owner", FailureCode::InvalidEvent, Some("/character_owner")),
        ("invalid_event_metadata", FailureCode::InvalidEvent, Some("/metadata")),
        (
            "invalid_event_negative_tokens",
            FailureCode::InvalidEvent,
            Some("/report/usage/0/input_tokens"),
        ),
        ("invalid_event_proto_json", FailureCode::InvalidEvent, Some("/history/items")),
        ("invalid_event_unknown_source", FailureCode::InvalidEvent, Some("/source/kind")),
        ("invalid_event_recording_without_id", FailureCode::InvalidEvent, Some("/egress/egressId")),
    ] {
        let event = fixture(&format!("bad/{name}.json"));
        let rejection = decode(event.as_bytes()).unwrap_err();
        assert_eq!((rejection.code, rejection.pointer.as_deref()), (code, pointer), "{name}");
        assert!(rejection.message.ends_with('.'), "{name}: {}", rejection.message);
    }
}

#[test]
fn conflicting_and_untimed_events_are_good_ones_until_they_are_finalized() {
    let digest = |name: &str| {
        let event = fixture(&format!("bad/{name}.json"));
        let Ok(Event::Ended(ended)) = decode(event.as_bytes()) else { panic!("{name}") };
        (ended.call.identity.session_id, ended.digest)
    };
    let (first, second) = (digest("conflicting_event_first"), digest("conflicting_event_second"));
    assert_eq!(first.0, second.0);
    assert_ne!(first.1, second.1);
    digest("untimed_turns");
}
