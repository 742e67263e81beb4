//! `LiveKit`'s `EgressInfo`, camelCase or `snake_case`, as one report on one egress.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Where an egress stands, in the order in which one state may follow another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EgressStatus {
    /// Asked for.
    Starting,
    /// Recording.
    Active,
    /// Finishing and uploading.
    Ending,
    /// Given up before it began.
    Aborted,
    /// Failed (or reached a limit without a file).
    Failed,
    /// Complete (or stopped at a limit).
    Complete,
}

/// One report on one egress, cut to what we use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    /// `EG_…`.
    pub egress_id: String,
    /// `RM_…`.
    pub room_id: Option<String>,
    /// The room's name.
    pub room_name: Option<String>,
    /// Where it stands.
    pub status: EgressStatus,
    /// `updatedAt` in nanoseconds since 1970; 0 if absent.
    pub updated_at_ns: i64,
    /// When the egress began.
    pub started_at: Option<DateTime<Utc>>,
    /// When the egress ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// The first file, if it has a name.
    pub file: Option<EgressFile>,
    /// The file went to backup storage only.
    pub is_backup_only: bool,
    /// `LiveKit`'s word on what went wrong, cut to 512 bytes.
    pub error: Option<String>,
}

/// The first of an egress's file results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressFile {
    /// The object's key (`fileResults[0].filename`).
    pub filename: String,
    /// The bucket of the request; none means the default recordings place.
    pub bucket: Option<String>,
    /// Bytes; 0 if absent.
    pub size: i64,
    /// `location` is not empty: the file was stored.
    pub is_stored: bool,
    /// When the file's first frame was written.
    pub started_at: Option<DateTime<Utc>>,
}
