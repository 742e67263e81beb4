//! When to try a delivery again. Pure: time comes in as values, jitter as a number.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

/// Attempts in all: 75 h 35 min 5 s without jitter.
pub const MAX_ATTEMPTS: u32 = 10;

/// Seconds from the end of one attempt to the next: at once, 5 s, 5 min, 30 min, 2 h, 5 h, 10 h,
/// 14 h, 20 h, 24 h.
const DELAYS: [u64; MAX_ATTEMPTS as usize] =
    [0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];

/// The longest that a receiver can put an attempt off by asking for it.
const LONGEST_ASKED: TimeDelta = TimeDelta::hours(24);

/// When to try again after `attempts` attempts, the last of which ended `now`; `None` when that
/// was the last. `chance` in `0.0..1.0` adds up to 10 %. `retry_after`: what the receiver asked for.
///
/// | attempt | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 |
/// |---|---|---|---|---|---|---|---|---|---|---|
/// | after | 0 | 5 s | 5 min | 30 min | 2 h | 5 h | 10 h | 14 h | 20 h | 24 h |
///
/// Jitter only ever adds: no attempt is early. What the receiver asks for puts the attempt off,
/// to at most 24 h from now, and never brings it forward.
pub fn next_attempt(
    attempts: u32,
    now: DateTime<Utc>,
    chance: f64,
    retry_after: Option<DateTime<Utc>>,
) -> Option<DateTime<Utc>> {
    let seconds = DELAYS.get(usize::try_from(attempts).ok()?)?;
    let delay = Duration::from_secs(*seconds);
    let chance = if (0.0..=1.0).contains(&chance) { chance } else { 0.0 };
    let scheduled = (now + delay + delay.mul_f64(chance / 10.0)).trunc_subsecs(6);
    let asked = retry_after.map(|asked| asked.min(now + LONGEST_ASKED));
    Some(asked.map_or(scheduled, |asked| asked.max(scheduled)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_780_000_000, 0).unwrap()
    }

    #[test]
    fn ten_attempts_are_made_in_75_hours_35_minutes_and_5_seconds() {
        let mut time = now();
        for attempts in 0..MAX_ATTEMPTS {
            time = next_attempt(attempts, time, 0.0, None).unwrap();
        }
        assert_eq!(time - now(), TimeDelta::seconds(75 * 3600 + 35 * 60 + 5));
        assert_eq!(next_attempt(MAX_ATTEMPTS, time, 0.0, None), None);
        assert_eq!(next_attempt(u32::MAX, time, 0.0, Some(time)), None);
    }

    #[test]
    fn jitter_adds_up_to_a_tenth_and_never_takes_away() {
        let after = |chance| next_attempt(3, now(), chance, None).unwrap() - now();
        assert_eq!(after(0.0), TimeDelta::minutes(30));
        assert_eq!(after(0.5), TimeDelta::seconds(31 * 60 + 30));
        assert_eq!(after(1.0), TimeDelta::minutes(33));
        assert_eq!(after(-3.0), TimeDelta::minutes(30));
        assert_eq!(after(f64::NAN), TimeDelta::minutes(30));
    }

    #[test]
    fn a_receiver_can_put_an_attempt_off_but_not_bring_it_forward() {
        let asked = |delay| next_attempt(2, now(), 0.0, Some(now() + delay)).unwrap() - now();
        assert_eq!(asked(TimeDelta::seconds(10)), TimeDelta::minutes(5));
        assert_eq!(asked(TimeDelta::seconds(-10)), TimeDelta::minutes(5));
        assert_eq!(asked(TimeDelta::minutes(7)), TimeDelta::minutes(7));
        assert_eq!(asked(TimeDelta::days(400)), TimeDelta::hours(24));
    }

    #[test]
    fn a_cut_request_does_not_shorten_the_last_delay() {
        let far = Some(now() + TimeDelta::days(400));
        let late = next_attempt(9, now(), 1.0, far).unwrap() - now();
        assert_eq!(late, TimeDelta::minutes(24 * 66));
    }
}
