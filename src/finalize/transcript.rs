//! Who said what, when: the ordered turns of a call.

use chrono::{DateTime, Utc};

use crate::event::{Call, Rejection, Role};

/// One turn of the transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// The exact text, cleaned as the module says.
    pub text: String,
    /// Milliseconds since the session began; never falls from turn to turn.
    pub start_ms: i64,
    /// When the speaker ended.
    pub end: Option<DateTime<Utc>>,
    /// The speaker was cut off.
    pub is_interrupted: bool,
}

/// The turns of a call, in order.
pub fn turns(_call: &Call<'_>) -> Result<Vec<Turn>, Rejection> {
    unimplemented!()
}

/// `Assistant: …` / `User: …`, a line a turn.
pub fn transcript_text<'a>(_turns: impl Iterator<Item = (Role, &'a str)>) -> String {
    unimplemented!()
}
