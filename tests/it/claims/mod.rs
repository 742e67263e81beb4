//! What holds for every input, whoever thinks of it: the property tests of this folder's
//! neighbours, and the fuzzers in `fuzz/`, which are compiled with these very claims.

pub(crate) mod address;
pub(crate) mod decode;
pub(crate) mod egress;
pub(crate) mod finalize;
pub(crate) mod merge;

use chrono::{DateTime, TimeDelta, Utc};

/// When everything happens.
pub(crate) fn noon() -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_056_000, 0).unwrap()
}

fn after(seconds: i64) -> DateTime<Utc> {
    noon() + TimeDelta::seconds(seconds)
}
