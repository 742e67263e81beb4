//! The digest of an event: SHA-256 over what is kept of it, as JSON. Digests are stored, so names,
//! their order and what is left out stay as they are for ever. Times are whole microseconds since
//! 1970 there, so that no library's taste in formatting can change a digest.

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::json::Json;
use super::{
    Call, Digest, Identity, Message, Model, RecordingRequest, SourceKind, Text, UsageCounts,
    UsageEntry,
};

/// What most events without messages need, in bytes …
const BYTES_OF_A_CALL: usize = 1024;
/// … and what most messages add.
const BYTES_OF_A_MESSAGE: usize = 192;

/// Of a `session.started`.
pub(super) fn of_start(identity: &Identity<'_>, started_at: DateTime<Utc>) -> Digest {
    digest(BYTES_OF_A_CALL, |json| {
        json.member("identity").object(|json| write_identity(json, identity));
        write_time(json.member("started_at"), started_at);
    })
}

/// Of a `session.ended` or a `session.checkpoint`.
pub(super) fn of_call(call: &Call<'_>) -> Digest {
    let capacity = BYTES_OF_A_CALL + call.messages.len() * BYTES_OF_A_MESSAGE;
    digest(capacity, |json| write_call(json, call))
}

/// Of a `room.finished`. What it does not name is null.
pub(super) fn of_room(
    session_id: Option<Uuid>,
    room_id: Option<&Text<'_>>,
    room_name: Option<&Text<'_>>,
    finished_at: DateTime<Utc>,
) -> Digest {
    digest(BYTES_OF_A_CALL, |json| {
        let session_id = session_id.map(|id| id.to_string());
        let names = [
            ("session_id", session_id.as_deref()),
            ("room_id", room_id.map(Text::as_str)),
            ("room_name", room_name.map(Text::as_str)),
        ];
        for (name, value) in names {
            match value {
                Some(text) => json.member(name).string(text),
                None => json.member(name).raw("null"),
            }
        }
        write_time(json.member("finished_at"), finished_at);
    })
}

fn digest(capacity: usize, write: impl FnOnce(&mut Json)) -> Digest {
    let mut json = Json::with_capacity(capacity);
    json.object(write);
    Sha256::digest(json.into_text()).into()
}

fn write_call(json: &mut Json, call: &Call<'_>) {
    let Call {
        identity,
        started_at,
        ended_at,
        close_reason,
        source,
        messages,
        usage,
        interruption_count,
        report_duration_ms,
        report_timestamp,
        recording,
    } = call;
    json.member("identity").object(|json| write_identity(json, identity));
    write_time(json.member("started_at"), *started_at);
    optional_time(json, "ended_at", *ended_at);
    optional_text(json, "close_reason", close_reason.as_ref());
    json.member("source").raw(match source {
        SourceKind::LivekitSessionReport => r#""livekit_session_report""#,
        SourceKind::LivekitHistory => r#""livekit_history""#,
        SourceKind::Messages => r#""messages""#,
    });
    json.member("messages").list(messages, |json, message| {
        json.object(|json| write_message(json, message));
    });
    if !usage.is_empty() {
        json.member("usage").list(usage, |json, entry| {
            json.object(|json| write_usage(json, entry));
        });
    }
    optional_integer(json, "interruption_count", interruption_count.map(i64::from));
    optional_integer(json, "report_duration_ms", *report_duration_ms);
    optional_time(json, "report_timestamp", *report_timestamp);
    if let Some(recording) = recording {
        json.member("recording").object(|json| write_recording(json, recording));
    }
}

fn write_identity(json: &mut Json, identity: &Identity<'_>) {
    let Identity {
        session_id,
        tenant_id,
        character_slug,
        character_owner,
        user,
        room_name,
        room_id,
        origin_url,
        metadata,
    } = identity;
    json.member("session_id").string(&session_id.to_string());
    json.member("tenant_id").string(tenant_id.as_str());
    json.member("character_slug").string(character_slug.as_str());
    json.member("character_owner").integer(*character_owner);
    optional_integer(json, "user", *user);
    optional_text(json, "room_name", room_name.as_ref());
    optional_text(json, "room_id", room_id.as_ref());
    optional_text(json, "origin_url", origin_url.as_ref());
    metadata.write_sorted(json.member("metadata"));
}

fn write_message(json: &mut Json, message: &Message<'_>) {
    let Message {
        id,
        role,
        texts,
        audio_transcripts,
        interrupted,
        created_at,
        started_speaking_at,
        stopped_speaking_at,
        voice,
    } = message;
    optional_text(json, "id", id.as_ref());
    json.member("role").raw(role.as_json());
    json.member("texts").list(texts, |json, text| json.string(text.as_str()));
    if !audio_transcripts.is_empty() {
        json.member("audio_transcripts")
            .list(audio_transcripts, |json, text| json.string(text.as_str()));
    }
    if *interrupted {
        json.member("interrupted").raw("true");
    }
    optional_time(json, "created_at", *created_at);
    optional_time(json, "started_speaking_at", *started_speaking_at);
    optional_time(json, "stopped_speaking_at", *stopped_speaking_at);
    if let Some(voice) = voice {
        json.member("voice").object(|json| write_model(json, voice));
    }
}

fn write_usage(json: &mut Json, entry: &UsageEntry<'_>) {
    let UsageEntry { index: _, kind, model, counts } = entry;
    optional_text(json, "type", kind.as_ref());
    write_model(json, model);
    let UsageCounts {
        input_tokens,
        input_cached_tokens,
        input_cache_creation_tokens,
        input_audio_tokens,
        input_cached_audio_tokens,
        output_tokens,
        output_audio_tokens,
        characters_count,
        audio_us,
    } = *counts;
    optional_integer(json, "input_tokens", input_tokens);
    optional_integer(json, "input_cached_tokens", input_cached_tokens);
    optional_integer(json, "input_cache_creation_tokens", input_cache_creation_tokens);
    optional_integer(json, "input_audio_tokens", input_audio_tokens);
    optional_integer(json, "input_cached_audio_tokens", input_cached_audio_tokens);
    optional_integer(json, "output_tokens", output_tokens);
    optional_integer(json, "output_audio_tokens", output_audio_tokens);
    optional_integer(json, "characters_count", characters_count);
    optional_integer(json, "audio_us", audio_us);
}

fn write_model(json: &mut Json, model: &Model<'_>) {
    let Model { provider, model } = model;
    json.member("provider").string(provider.as_str());
    json.member("model").string(model.as_str());
}

fn write_recording(json: &mut Json, recording: &RecordingRequest<'_>) {
    let RecordingRequest { expected, egress_id, url } = recording;
    json.member("expected").raw(if *expected { "true" } else { "false" });
    optional_text(json, "egress_id", egress_id.as_ref());
    optional_text(json, "url", url.as_ref());
}

fn write_time(json: &mut Json, time: DateTime<Utc>) {
    json.integer(time.timestamp_micros());
}

fn optional_time(json: &mut Json, name: &'static str, time: Option<DateTime<Utc>>) {
    if let Some(time) = time {
        write_time(json.member(name), time);
    }
}

fn optional_text(json: &mut Json, name: &'static str, text: Option<&Text<'_>>) {
    if let Some(text) = text {
        json.member(name).string(text.as_str());
    }
}

fn optional_integer(json: &mut Json, name: &'static str, number: Option<i64>) {
    if let Some(number) = number {
        json.member(name).integer(number);
    }
}
