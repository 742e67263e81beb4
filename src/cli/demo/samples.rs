//! The calls of the demo: what real voice SDKs say at the end of a call, and one recording.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

/// The recording's name inside the recordings folder.
const RECORDING: &str = "demo.wav";

/// One sample call.
pub(super) struct Call {
    /// What is special about it.
    pub(super) title: &'static str,
    /// Its `session.ended`.
    pub(super) event: Value,
}

impl Call {
    /// The session's id.
    pub(super) fn session_id(&self) -> &str {
        self.event["session_id"].as_str().unwrap_or_default()
    }

    /// Whose character spoke.
    pub(super) fn owner(&self) -> Option<i64> {
        self.event["character_owner"].as_i64()
    }
}

macro_rules! sample {
    ($title:literal, $file:literal) => {
        ($title, include_str!(concat!("../../../tests/fixtures/events/", $file)))
    };
}

const SAMPLES: [(&str, &str); 7] = [
    sample!("LiveKit 1.8.9: interruption, tool", "call_interrupted_tool_unicode.json"),
    sample!("LiveKit 1.8.9: hang-up mid-speech", "call_hangup_mid_speech.json"),
    sample!("LiveKit 1.8.9: nobody speaks", "call_no_speech.json"),
    sample!("LiveKit 1.8.9: Unicode, typed", "call_unicode_typed.json"),
    sample!("LiveKit 1.3: no usage", "call_livekit_1_3.json"),
    sample!("LiveKit 1.5.9: untyped usage", "call_livekit_1_5_9.json"),
    sample!("Pipecat", "call_pipecat.json"),
];

/// The sample calls; of the first one a recording was asked for.
pub(super) fn calls() -> [Call; 7] {
    SAMPLES.map(|(title, text)| Call {
        title,
        event: serde_json::from_str(text).expect("the samples are JSON"),
    })
}

/// Puts a recording where an egress would, and says so as `LiveKit` would.
pub(super) fn record(call: &Call, folder: &Path) -> std::io::Result<Value> {
    let tone = tone();
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(RECORDING), &tone)?;
    let began = call.event["started_at"].as_str().unwrap_or_default();
    let began = began.parse::<DateTime<Utc>>().unwrap_or_default() + TimeDelta::seconds(1);
    let nanoseconds = |time: DateTime<Utc>| time.timestamp_nanos_opt().unwrap_or(0).to_string();
    let ended = nanoseconds(began + TimeDelta::seconds(TONE_SECONDS));
    Ok(json!({
        "type": "recording.updated",
        "schema_version": 1,
        "event_id": "demo-recording",
        "session_id": call.session_id(),
        "egress": {
            "egressId": call.event["recording"]["egress_id"],
            "status": "EGRESS_COMPLETE",
            "startedAt": nanoseconds(began),
            "endedAt": ended,
            "updatedAt": ended,
            "fileResults": [{
                "filename": RECORDING,
                "location": RECORDING,
                "size": tone.len().to_string(),
                "startedAt": nanoseconds(began),
                "endedAt": ended,
            }],
        },
    }))
}

const TONE_SECONDS: i64 = 3;

/// A WAV file: one channel, 8,000 samples of 16 bits a second, a quiet square wave of 400 Hz.
fn tone() -> Vec<u8> {
    const SAMPLES: u32 = 8_000 * 3;
    const DATA_BYTES: u32 = SAMPLES * 2;
    let mut file = Vec::new();
    file.extend(b"RIFF");
    file.extend((36 + DATA_BYTES).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    // PCM, one channel.
    file.extend([1_u16, 1].map(u16::to_le_bytes).concat());
    // Samples and bytes a second.
    file.extend([8_000_u32, 16_000].map(u32::to_le_bytes).concat());
    // Bytes and bits a sample.
    file.extend([2_u16, 16].map(u16::to_le_bytes).concat());
    file.extend(b"data");
    file.extend(DATA_BYTES.to_le_bytes());
    let sample = |n| if n / 10 % 2 == 0 { 2_000_i16 } else { -2_000 };
    file.extend((0..SAMPLES).flat_map(|n| sample(n).to_le_bytes()));
    file
}
