//! The domain: what an event makes of a session. Pure: bytes, clocks and databases are elsewhere.

mod cost;
mod difference;
mod history;
mod join;
mod merge;
mod recording;
mod reprice;
#[cfg(test)]
mod sample;
mod schema;
mod session;
mod silence;
mod summary;
mod transcript;
mod usage;

pub use cost::{Cost, Dollars, PriceBook, PriceBookError, unpriced_kinds};
pub use difference::{Difference, differences};
pub use history::{HistoryData, Totals};
pub use join::{JoinedBy, JoinedEgress, recorded_span};
pub use merge::{Change, Erased, NewDelivery, NewMessage, Outcome, Plan, Prepared, Snapshot, plan};
pub use recording::{
    Finding, RecordingState, RecordingStatus, egress_outcome, merge_egress, recording_files,
    settle_recording,
};
pub use reprice::{Bill, Repriced};
pub use schema::webhook_schema;
pub use session::{Session, finalize, start};
pub use silence::{FinishedRoom, ROOM_GRACE, Silence};
pub use summary::{SessionData, full_payload, session_data, thin_payload};
pub use transcript::{Turn, transcript_text, turns};
pub use usage::{Amounts, Usage, UsageKind, UsageLine, total_usage};

/// The transcript of a session in progress.
const NO_TRANSCRIPT: &str = "[]";
/// The usage of a session in progress.
const NO_USAGE: &str = "{}";
/// The cost breakdown of a session that used nothing.
const NO_COST: &str = r#"{"lines":[],"unpriced":[]}"#;
