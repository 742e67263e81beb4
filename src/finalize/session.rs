//! A session as it is kept, and the two events that make one.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::recording::RecordingState;
use crate::event::Digest;

/// One voice call as it is stored. Amounts are whole numbers: milliseconds, micro-dollars.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// The number the API shows as `id`; 0 until the store has given one.
    pub id: i64,
    /// The session's id.
    pub session_id: Uuid,
    /// The tenant the character belongs to.
    pub tenant_id: String,
    /// The character that spoke.
    pub character_slug: String,
    /// The owner: who created the character.
    pub character_owner: i64,
    /// The user who called.
    pub user: Option<i64>,
    /// `LiveKit`'s room id.
    pub room_id: Option<String>,
    /// `LiveKit`'s room name.
    pub room_name: Option<String>,
    /// The page the call was made from.
    pub origin_url: Option<String>,
    /// A JSON object, as compact text.
    pub metadata: String,
    /// When the call began; the API's `created_at`.
    pub started_at: DateTime<Utc>,
    /// When the call ended, whoever said so (event, report, last turn): `started_at` + duration.
    /// `None` while in progress.
    pub ended_at: Option<DateTime<Utc>>,
    /// Why the call ended.
    pub close_reason: Option<String>,
    /// `started_at` to the end, in milliseconds.
    pub duration_ms: i64,
    /// Turns in `transcript`.
    pub turn_count: i32,
    /// How often the user spoke over the agent.
    pub interruption_count: i32,
    /// Gross of cache.
    pub llm_input_tokens: i64,
    /// Reasoning included.
    pub llm_output_tokens: i64,
    /// The model with most tokens.
    pub llm_model: Option<String>,
    /// Its provider, folded.
    pub llm_provider: Option<String>,
    /// Milliseconds of audio.
    pub stt_audio_ms: i64,
    /// The provider with most audio.
    pub stt_provider: Option<String>,
    /// Characters spoken by TTS.
    pub tts_characters: i64,
    /// The provider with most characters.
    pub tts_provider: Option<String>,
    /// Micro-dollars.
    pub cost_micros: i64,
    /// `{"lines": […], "unpriced": […]}`, as JSON text.
    pub cost_breakdown: String,
    /// The usage lines the cost was computed from, as JSON text; `sessions reprice` reads it.
    pub usage: String,
    /// `[{"role", "text", "turn_index", "ts"}]`, as JSON text, just as the API shows it.
    pub transcript: String,
    /// A recording was asked for.
    pub recording_expected: bool,
    /// The egress the worker named.
    pub recording_egress_id: Option<String>,
    /// Where the worker says that it stored the recording itself.
    pub recording_worker_url: Option<String>,
    /// The store was looked at, and the worker's object is there.
    pub is_recording_found: bool,
    /// The deadline passed without a recording.
    pub is_recording_given_up: bool,
    /// What is known of the recording.
    pub recording: RecordingState,
    /// When the session became readable; set anew by a superseding event.
    pub finalized_at: Option<DateTime<Utc>>,
    /// 0 in progress, 1 finalized, one more for every superseding event.
    pub revision: i32,
    /// Rises with every change of the session.
    pub version: i32,
    /// Of the event that made the present revision (of `session.started` while in progress).
    pub digest: Digest,
    /// Digests of the events that earlier revisions came from.
    pub superseded: Vec<Digest>,
}

/// Makes a finalized session of a call; `id`, `revision`, `version`, `finalized_at` and the
/// recording's state are the merge's to set.
pub fn finalize(
    _ended: &crate::event::SessionEnded<'_>,
    _prices: &super::cost::PriceBook,
) -> Result<Session, crate::event::Rejection> {
    unimplemented!()
}

/// Makes a session in progress.
pub fn start(_started: &crate::event::SessionStarted<'_>) -> Session {
    unimplemented!()
}
