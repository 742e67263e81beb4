//! Time and chance, as arguments. Everything that needs "now" or a fresh id is given one of these.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use rand::Rng;
use uuid::Uuid;

/// Tells the time, in UTC, cut to whole microseconds: what both databases can keep.
pub trait Clock: Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's clock, corrected to the database's: with several processes there is one time,
/// the database's, and [`SystemClock::correct`] is told it every few seconds.
#[derive(Debug, Default)]
pub struct SystemClock {
    offset_us: AtomicI64,
}

impl SystemClock {
    /// Learns the database's time. `asked_at` is this clock's uncorrected time (see
    /// [`SystemClock::machine_now`]) in the middle of the question.
    pub fn correct(&self, database_now: DateTime<Utc>, asked_at: DateTime<Utc>) {
        let offset = (database_now - asked_at).num_microseconds().unwrap_or(0);
        self.offset_us.store(offset, Ordering::Relaxed);
    }

    /// The machine's own time, uncorrected.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the machine")]
    pub fn machine_now() -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }
}

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Self::machine_now() + TimeDelta::microseconds(self.offset_us.load(Ordering::Relaxed))
    }
}

/// Makes a new id, ordered by time (UUID version 7).
pub fn new_id(now: DateTime<Utc>) -> Uuid {
    let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
    let timestamp =
        uuid::Timestamp::from_unix(uuid::NoContext, seconds, now.timestamp_subsec_nanos());
    Uuid::new_v7(timestamp)
}

/// A number in `0.0..1.0`, for jitter.
pub fn chance() -> f64 {
    f64::from(rand::rng().next_u32()) / (f64::from(u32::MAX) + 1.0)
}

/// Thirty-two random bytes: an API key, an endpoint's secret, the installation's key.
pub fn random_key() -> [u8; 32] {
    let mut key = [0; 32];
    rand::rng().fill_bytes(&mut key);
    key
}
