//! Whether a consumer gets on with the events that are there for it. Who asks need not wait for the
//! consumer, which may hang.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};

/// Longer than a batch can take whose transactions all run into their deadline, one half after the
/// other.
const STALLED_AFTER: TimeDelta = TimeDelta::minutes(2);
/// There is nothing to get on with.
const IDLE: i64 = i64::MAX;

/// Since when there has been something to do and nothing was done, in microseconds since 1970.
#[derive(Debug)]
pub(super) struct Progress(AtomicI64);

impl Default for Progress {
    fn default() -> Self {
        Self(AtomicI64::new(IDLE))
    }
}

impl Progress {
    /// There is something to do.
    pub(super) fn work(&self, now: DateTime<Utc>) {
        let now = now.timestamp_micros();
        // Else there was already.
        let _ = self.0.compare_exchange(IDLE, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Something was done, and more is to be.
    pub(super) fn step(&self, now: DateTime<Utc>) {
        self.0.store(now.timestamp_micros(), Ordering::Relaxed);
    }

    /// There is nothing to do.
    pub(super) fn rest(&self) {
        self.0.store(IDLE, Ordering::Relaxed);
    }

    /// There is something to do, and nothing was done for too long.
    pub(super) fn is_stalled(&self, now: DateTime<Utc>) -> bool {
        let since = self.0.load(Ordering::Relaxed);
        now.timestamp_micros().saturating_sub(since) > STALLED_AFTER.num_microseconds().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_780_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn who_has_something_to_do_and_does_nothing_is_stalled() {
        let progress = Progress::default();
        assert!(!progress.is_stalled(at(0)), "there was nothing to do");
        progress.work(at(0));
        progress.work(at(100));
        assert!(!progress.is_stalled(at(120)));
        assert!(progress.is_stalled(at(121)));
    }

    #[test]
    fn every_step_gives_time_anew_and_who_is_done_may_rest() {
        let progress = Progress::default();
        progress.work(at(0));
        progress.step(at(100));
        assert!(!progress.is_stalled(at(220)));
        assert!(progress.is_stalled(at(221)));
        progress.rest();
        assert!(!progress.is_stalled(at(1000)));
        progress.work(at(1000));
        assert!(!progress.is_stalled(at(1100)));
    }
}
