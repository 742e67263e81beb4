//! How many attempts an endpoint's rate limit lets start now. Pure.
//!
//! The generic cell rate algorithm: each attempt moves the moment of the next free slot on by one
//! interval. What was not used is lost, but for one second's worth.

use chrono::{DateTime, TimeDelta, Utc};

/// A limit of so many attempts a minute.
#[derive(Debug, Clone, Copy)]
pub struct RateLimit {
    per_minute: u32,
}

impl RateLimit {
    /// The limit.
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute: per_minute.max(1) }
    }

    /// How many attempts may start `now`, when the next slot was free at `next_slot_at`.
    pub fn free(self, next_slot_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> u32 {
        let Some(next_slot_at) = next_slot_at else { return self.burst() };
        if next_slot_at > now {
            return 0;
        }
        let passed = (now - next_slot_at).num_microseconds().unwrap_or(i64::MAX);
        let slots = passed / self.interval_us() + 1;
        u32::try_from(slots).unwrap_or(u32::MAX).min(self.burst())
    }

    /// When the next slot is free, after `taken` attempts have started `now`.
    pub fn after(
        self,
        next_slot_at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
        taken: u32,
    ) -> DateTime<Utc> {
        let unused = TimeDelta::microseconds(self.interval_us() * i64::from(self.burst() - 1));
        let earliest = now - unused;
        let from = next_slot_at.map_or(earliest, |at| at.max(earliest));
        from + TimeDelta::microseconds(self.interval_us() * i64::from(taken))
    }

    /// The most that may start at once: a second's worth, at least one.
    pub fn burst(self) -> u32 {
        (self.per_minute / 60).max(1)
    }

    fn interval_us(self) -> i64 {
        60_000_000 / i64::from(self.per_minute)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(milliseconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_780_000_000_000 + milliseconds).unwrap()
    }

    /// Takes all that is free at each of these moments; how many in all.
    fn taken(limit: RateLimit, moments: impl Iterator<Item = i64>) -> u32 {
        let (mut next, mut all) = (None, 0);
        for moment in moments {
            let free = limit.free(next, at(moment));
            next = Some(limit.after(next, at(moment), free));
            all += free;
        }
        all
    }

    #[test]
    fn thirty_a_minute_is_one_every_two_seconds() {
        let limit = RateLimit::new(30);
        assert_eq!(limit.free(None, at(0)), 1);
        let next = Some(limit.after(None, at(0), 1));
        assert_eq!((limit.free(next, at(1999)), limit.free(next, at(2000))), (0, 1));
        assert_eq!(limit.free(next, at(60_000)), 1, "what was not used is lost");
    }

    #[test]
    fn six_hundred_a_minute_come_ten_at_a_time_at_most() {
        let limit = RateLimit::new(600);
        assert_eq!(limit.free(None, at(0)), 10);
        let next = Some(limit.after(None, at(0), 10));
        assert_eq!((limit.free(next, at(0)), limit.free(next, at(350))), (0, 3));
        assert_eq!(limit.free(next, at(3_600_000)), 10);
        assert_eq!(taken(limit, 0..=60_000), 610);
    }

    proptest! {
        /// However often it is asked, and whatever of it is taken.
        #[test]
        fn no_minute_has_more_than_the_limit_and_one_burst(
            per_minute in 1..5_000_u32,
            pauses in proptest::collection::vec((0..1_000_i64, 0..100_u32), 1..200),
        ) {
            let limit = RateLimit::new(per_minute);
            let (mut next, mut now, mut all) = (None, 0, 0_u32);
            for (pause, wanted) in pauses {
                now += pause;
                if now > 60_000 { break; }
                let free = limit.free(next, at(now)).min(wanted);
                if free > 0 {
                    next = Some(limit.after(next, at(now), free));
                }
                all += free;
            }
            prop_assert!(all <= per_minute + (per_minute / 60).max(1) + 1, "{} of {}", all, per_minute);
        }
    }
}
