//! How an endpoint has fared: since when it only fails, and when that is enough. Pure.
//!
//! An endpoint that only failed for 120 hours, at least 20 times and on 3 days, is disabled. A day
//! without traffic starts it anew: nobody knows how it would have fared.

use chrono::{DateTime, TimeDelta, Utc};

const LONGEST_FAILING: TimeDelta = TimeDelta::hours(120);
const LEAST_FAILURES: u32 = 20;
const LEAST_DAYS: u32 = 3;
const WITHOUT_TRAFFIC: TimeDelta = TimeDelta::hours(24);

/// How near to being disabled, in percent, an endpoint is when somebody is told.
pub const WARNED_AT: [u32; 3] = [50, 70, 90];

/// An endpoint that has only failed of late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failing {
    /// The first of these failures.
    pub since: DateTime<Utc>,
    /// The last of them.
    pub last_at: DateTime<Utc>,
    /// How many.
    pub failures: u32,
    /// On how many days (UTC).
    pub days: u32,
}

impl Failing {
    /// After one more failure.
    pub fn after(previous: Option<Self>, at: DateTime<Utc>) -> Self {
        match previous {
            Some(previous) if at - previous.last_at <= WITHOUT_TRAFFIC => {
                let last_at = previous.last_at.max(at);
                let is_new_day = last_at.date_naive() > previous.last_at.date_naive();
                Self {
                    last_at,
                    failures: previous.failures.saturating_add(1),
                    days: previous.days + u32::from(is_new_day),
                    ..previous
                }
            }
            _ => Self { since: at, last_at: at, failures: 1, days: 1 },
        }
    }

    /// How near it is to being disabled: at 100 it is. The least of its conditions counts.
    pub fn percent(&self) -> u32 {
        let seconds = (self.last_at - self.since).num_seconds().max(0);
        let of_time = seconds.saturating_mul(100) / LONGEST_FAILING.num_seconds();
        let of_failures = i64::from(self.failures) * 100 / i64::from(LEAST_FAILURES);
        let of_days = i64::from(self.days) * 100 / i64::from(LEAST_DAYS);
        let least = of_time.min(of_failures).min(of_days).min(100);
        u32::try_from(least).unwrap_or(0)
    }

    /// Which warning is due, if the last failures took it from `before` percent to where it is.
    pub fn warning(&self, before: u32) -> Option<u32> {
        WARNED_AT.into_iter().rev().find(|at| before < *at && *at <= self.percent())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_780_000_000, 0).unwrap() + TimeDelta::hours(hours)
    }

    fn failing_at(hours: impl IntoIterator<Item = i64>) -> Failing {
        let failures = hours.into_iter().map(at);
        failures.fold(None, |before, at| Some(Failing::after(before, at))).unwrap()
    }

    #[test]
    fn an_endpoint_is_given_up_after_120_hours_of_nothing_but_failures() {
        assert_eq!(failing_at(0..=119).percent(), 99);
        assert_eq!(failing_at(0..=120).percent(), 100);
        assert_eq!(failing_at((0..=120).step_by(6)).percent(), 100, "21 failures");
    }

    #[test]
    fn few_failures_are_no_proof() {
        assert_eq!(failing_at((0..=120).step_by(8)).percent(), 80, "16 failures");
        assert_eq!(failing_at((0..).step_by(12).take(19)).percent(), 95, "19 failures");
        assert_eq!(failing_at((0..).step_by(12).take(20)).percent(), 100);
    }

    #[test]
    fn many_failures_in_an_hour_are_one_failure_of_one_day() {
        let failing = failing_at(std::iter::repeat_n(0, 10_000));
        assert_eq!((failing.percent(), failing.days), (0, 1));
    }

    #[test]
    fn a_day_without_traffic_starts_it_anew() {
        let failing = failing_at((0..=100).chain([125]));
        assert_eq!((failing.since, failing.failures, failing.percent()), (at(125), 1, 0));
        assert_eq!(failing_at((0..=100).chain([124])).failures, 102);
    }

    #[test]
    fn results_may_come_out_of_order() {
        let failing = failing_at([0, 5, 3]);
        assert_eq!((failing.last_at, failing.failures), (at(5), 3));
    }

    #[test]
    fn each_warning_comes_once_and_in_time() {
        let mut warnings = Vec::new();
        let mut failing = None;
        for hour in 0..=120 {
            let before = failing.as_ref().map_or(0, Failing::percent);
            let after = Failing::after(failing, at(hour));
            warnings.extend(after.warning(before).map(|percent| (hour, percent)));
            failing = Some(after);
        }
        assert_eq!(warnings, [(60, 50), (84, 70), (108, 90)]);
    }

    #[test]
    fn after_a_leap_only_the_last_warning_is_told() {
        assert_eq!(failing_at(0..=119).warning(10), Some(90));
        assert_eq!(failing_at(0..=119).warning(95), None);
    }
}
