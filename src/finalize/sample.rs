//! A call built by hand, for tests.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::event::{
    Call, Envelope, Identity, Message, Metadata, Model, Role, SessionEnded, SourceKind, Text,
    UsageCounts, UsageEntry,
};

/// The time so many seconds after the sample call began.
pub(super) fn at(seconds: f64) -> DateTime<Utc> {
    #[expect(clippy::cast_possible_truncation, reason = "tests use small numbers")]
    let microseconds = (seconds * 1e6).round() as i64;
    DateTime::from_timestamp(1_780_000_000, 0).unwrap() + TimeDelta::microseconds(microseconds)
}

pub(super) fn call() -> Call<'static> {
    Call {
        identity: Identity {
            session_id: Uuid::from_u128(0x0197_0000_0000_7000_8000_0000_0000_0001),
            tenant_id: "acme".into(),
            character_slug: "support-bot".into(),
            character_owner: 7,
            user: Some(7),
            room_name: Some("oshara-voice-support-bot-user123-abc12".into()),
            room_id: Some("RM_sample00001".into()),
            origin_url: None,
            metadata: Metadata::empty(),
        },
        started_at: at(0.0),
        ended_at: None,
        close_reason: None,
        source: SourceKind::LivekitSessionReport,
        messages: vec![],
        usage: vec![],
        interruption_count: None,
        report_duration_ms: None,
        report_timestamp: None,
        recording: None,
    }
}

pub(super) fn ended(call: Call<'static>) -> SessionEnded<'static> {
    SessionEnded { envelope: Envelope::default(), digest: [7; 32], call }
}

pub(super) fn message(id: &'static str, role: Role, text: &'static str) -> Message<'static> {
    Message {
        id: Some(id.into()),
        role,
        texts: vec![text.into()],
        audio_transcripts: vec![],
        interrupted: false,
        created_at: None,
        started_speaking_at: None,
        stopped_speaking_at: None,
        voice: None,
    }
}

impl Message<'static> {
    pub(super) fn made(self, seconds: f64) -> Self {
        Self { created_at: Some(at(seconds)), ..self }
    }

    pub(super) fn spoke(self, from: f64, to: f64) -> Self {
        Self { started_speaking_at: Some(at(from)), stopped_speaking_at: Some(at(to)), ..self }
    }
}

pub(super) fn usage(
    kind: &'static str,
    provider: &'static str,
    model: &'static str,
    counts: UsageCounts,
) -> UsageEntry<'static> {
    UsageEntry {
        index: 0,
        kind: (!kind.is_empty()).then(|| Text::from(kind)),
        model: Model { provider: provider.into(), model: model.into() },
        counts,
    }
}

/// What the customer's page shows: 1,840 and 612 tokens, 92.3 seconds, 1,284 characters.
pub(super) fn page_usage(
    tts_provider: &'static str,
    tts_model: &'static str,
) -> Vec<UsageEntry<'static>> {
    vec![
        usage(
            "llm_usage",
            "api.openai.com",
            "gpt-4o-mini",
            UsageCounts {
                input_tokens: Some(1840),
                output_tokens: Some(612),
                ..UsageCounts::default()
            },
        ),
        usage(
            "stt_usage",
            "api.openai.com",
            "whisper-1",
            UsageCounts { audio_us: Some(92_300_000), ..UsageCounts::default() },
        ),
        usage(
            "tts_usage",
            tts_provider,
            tts_model,
            UsageCounts {
                characters_count: Some(1284),
                audio_us: Some(70_100_000),
                ..UsageCounts::default()
            },
        ),
    ]
}
