//! The digest of an event: SHA-256 over what is kept of it, as JSON. Times are whole microseconds
//! since 1970 there, so that no library's taste in formatting can change a digest.

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::Digest;

/// The digest of everything `kept` serializes.
pub(super) fn digest(kept: &impl Serialize) -> Digest {
    let json = serde_json::to_vec(kept).expect("strings, numbers and checked JSON serialize");
    Sha256::digest(json).into()
}

/// A time, for `serialize_with`.
pub(super) fn time<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(time.timestamp_micros())
}

/// A time that may be absent, for `serialize_with`.
#[expect(clippy::ref_option, reason = "serde's signature")]
pub(super) fn optional_time<S: Serializer>(
    time: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    time.map(|time| time.timestamp_micros()).serialize(serializer)
}
