//! What a call used: the entries of LLM, STT and TTS, by provider and model.

use serde::{Deserialize, Serialize};

use crate::event::{Call, Rejection, UsageCounts};

/// What was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UsageKind {
    /// Tokens.
    Llm,
    /// Heard audio.
    Stt,
    /// Spoken characters.
    Tts,
}

/// All use of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageLine {
    /// What was used.
    pub kind: UsageKind,
    /// Folded by alias.
    pub provider: String,
    /// Folded by alias.
    pub model: String,
    /// The sums.
    pub counts: UsageCounts,
}

/// A call's usage: one line per (kind, provider, model), in the order first seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// The lines.
    pub lines: Vec<UsageLine>,
}

/// Adds up a call's usage.
pub fn total_usage(_call: &Call<'_>) -> Result<Usage, Rejection> {
    unimplemented!()
}
