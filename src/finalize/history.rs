//! Many sessions as people see them: a row for each, and what they come to.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::cost::Dollars;
use super::session::Session;
use super::summary::{Seconds, SessionData, brief_data, listed_data};

/// What a number of sessions come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many they are.
    pub sessions: i64,
    /// Gross of cache.
    pub llm_input_tokens: i64,
    /// Reasoning included.
    pub llm_output_tokens: i64,
    /// Milliseconds of audio.
    pub stt_audio_ms: i64,
    /// Characters spoken by TTS.
    pub tts_characters: i64,
    /// Micro-dollars.
    pub cost_micros: i64,
}

/// Sessions as the API lists them; without totals these are null.
#[derive(Serialize, ToSchema)]
#[schema(as = History)]
pub struct HistoryData<P> {
    total_sessions: Option<i64>,
    total_llm_input_tokens: Option<i64>,
    total_llm_output_tokens: Option<i64>,
    total_stt_audio_seconds: Option<Seconds>,
    total_tts_characters: Option<i64>,
    total_estimated_cost_usd: Option<Dollars>,
    sessions: Listed<P>,
}

/// A part of the sessions.
#[derive(Serialize, ToSchema)]
struct Listed<P> {
    /// Without `transcript` and `recording_presigned_url`.
    #[schema(value_type = Vec<SessionData>)]
    data: Vec<Box<RawValue>>,
    #[serde(flatten)]
    place: P,
}

impl<P> HistoryData<P> {
    /// Shows sessions; `place` says which part of all they are.
    pub fn new(totals: Option<&Totals>, sessions: &[Session], place: P) -> Self {
        Self::of(totals, sessions.iter().map(listed_data).collect(), place)
    }

    /// Shows sessions without totals, and without any text of the calls.
    pub fn brief(sessions: &[Session], place: P) -> Self {
        Self::of(None, sessions.iter().map(brief_data).collect(), place)
    }

    fn of(totals: Option<&Totals>, data: Vec<Box<RawValue>>, place: P) -> Self {
        Self {
            total_sessions: totals.map(|totals| totals.sessions),
            total_llm_input_tokens: totals.map(|totals| totals.llm_input_tokens),
            total_llm_output_tokens: totals.map(|totals| totals.llm_output_tokens),
            total_stt_audio_seconds: totals.map(|totals| Seconds(totals.stt_audio_ms)),
            total_tts_characters: totals.map(|totals| totals.tts_characters),
            total_estimated_cost_usd: totals.map(|totals| Dollars(totals.cost_micros)),
            sessions: Listed { data, place },
        }
    }
}
