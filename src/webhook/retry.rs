//! When to try a delivery again. Pure: time comes in as values, jitter as a number.

use chrono::{DateTime, Utc};

/// Attempts in all: 75 h 35 min 5 s without jitter.
pub const MAX_ATTEMPTS: u32 = 10;

/// When to try again after `attempts` attempts, the last of which ended `now`; `None` when that
/// was the last. `chance` in `0.0..1.0` adds up to 10 %. `retry_after`: what the receiver asked for.
pub fn next_attempt(
    _attempts: u32,
    _now: DateTime<Utc>,
    _chance: f64,
    _retry_after: Option<DateTime<Utc>>,
) -> Option<DateTime<Utc>> {
    unimplemented!()
}
