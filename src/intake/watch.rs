//! How far this process has come with the events that are there for it. All processes say so in the
//! database, because a call may only be given up while none of them is behind: what is still to be
//! said of it may be waiting.
//!
//! A process that is *behind* holds events while the database is away, or consumes from a broker and
//! cannot say of any moment of the last [`BEHIND_AFTER`] that everything which was in the queue then is
//! taken (see `amqp/mark.rs`).

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Intake;
use crate::clock::{Clock, new_id};
use crate::store::{IntakeState, SharedStore, StoreError};

const LOOK_EVERY: Duration = Duration::from_secs(20);
/// Also how long a process's word counts.
const BEHIND_AFTER: TimeDelta = TimeDelta::minutes(2);
/// How long everybody must have kept up before a call is given up: whoever could not reach the broker
/// or the database has told us by then what there was to tell.
const CURRENT_FOR: TimeDelta = TimeDelta::minutes(15);
/// A consumer that is gone without a word may have had events in hand. By then the broker has given
/// them to others.
const GONE_AFTER: TimeDelta = TimeDelta::minutes(30);
/// Where there was a consumer there is a queue: while there is none, it fills. Longer than that, and
/// the broker is not used any more.
const FORGOTTEN_AFTER: TimeDelta = TimeDelta::days(7);

/// What the watch works with.
#[derive(Clone)]
pub struct WatchParts {
    /// Where processes say how far they have come.
    pub store: SharedStore,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// This process's intake.
    pub intake: Intake,
    /// It consumes from a broker.
    pub is_consuming: bool,
}

/// Watches this process's intake.
pub struct IntakeWatch {
    parts: WatchParts,
    process_id: Uuid,
    current_since: Option<DateTime<Utc>>,
    looked_at: Option<DateTime<Utc>>,
}

impl IntakeWatch {
    /// A watch; it begins with [`IntakeWatch::run`].
    pub fn new(parts: WatchParts) -> Self {
        let process_id = new_id(parts.clock.now());
        Self { parts, process_id, current_since: None, looked_at: None }
    }

    /// Looks and says what it saw, until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let looking = async {
            loop {
                if let Err(error) = self.look().await {
                    tracing::warn!("how far intake has come cannot be kept: {error}");
                }
                sleep(LOOK_EVERY).await;
            }
        };
        stop.run_until_cancelled(looking).await;
    }

    /// Looks once. Who could not look or say it for a while has not kept up meanwhile.
    pub async fn look(&mut self) -> Result<(), StoreError> {
        let now = self.parts.clock.now();
        let is_recent = |at: &DateTime<Utc>| (now - *at).abs() <= BEHIND_AFTER;
        let kept = self.looked_at.filter(is_recent).and(self.current_since);
        let caught_up_at = self.parts.intake.caught_up_at();
        let has_caught_up =
            !self.parts.is_consuming || caught_up_at.as_ref().is_some_and(is_recent);
        let is_current = has_caught_up && !self.parts.intake.is_paused();
        self.current_since = is_current.then(|| kept.unwrap_or(now));
        let state = IntakeState {
            process_id: self.process_id,
            is_consuming: self.parts.is_consuming,
            current_since: self.current_since,
            seen_at: now,
        };
        self.looked_at = None;
        self.parts.store.note_intake(&state, now - FORGOTTEN_AFTER).await?;
        self.looked_at = Some(now);
        Ok(())
    }
}

/// Whether all processes have kept up for so long that what was not heard by now was not said.
pub(super) fn is_everything_heard(states: &[IntakeState], now: DateTime<Utc>) -> bool {
    let is_within = |state: &IntakeState, age| now - state.seen_at <= age;
    let is_fresh = |state: &IntakeState| is_within(state, BEHIND_AFTER);
    let has_kept_up = |state: &IntakeState| {
        is_fresh(state) && state.current_since.is_some_and(|since| now - since >= CURRENT_FOR)
    };
    let counts = |state: &&IntakeState| {
        is_fresh(state) || (state.is_consuming && is_within(state, GONE_AFTER))
    };
    let is_there_a_queue = states.iter().any(|state| state.is_consuming);
    states.iter().any(|state| is_fresh(state) && state.is_consuming >= is_there_a_queue)
        && states.iter().filter(counts).all(has_kept_up)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_780_000_000, 0).unwrap()
    }

    fn minutes_ago(minutes: i64) -> DateTime<Utc> {
        now() - TimeDelta::minutes(minutes)
    }

    fn state(is_consuming: bool, current_for: Option<i64>, seen: i64) -> IntakeState {
        IntakeState {
            process_id: Uuid::nil(),
            is_consuming,
            current_since: current_for.map(minutes_ago),
            seen_at: minutes_ago(seen),
        }
    }

    #[track_caller]
    fn assert_heard(states: &[IntakeState], expected: bool) {
        assert_eq!(is_everything_heard(states, now()), expected, "{states:?}");
    }

    #[test]
    fn all_must_have_kept_up_for_a_quarter_of_an_hour() {
        assert_heard(&[], false);
        for is_consuming in [false, true] {
            assert_heard(&[state(is_consuming, Some(15), 0)], true);
            assert_heard(&[state(is_consuming, Some(14), 0)], false);
            assert_heard(&[state(is_consuming, None, 0)], false);
            let other = state(!is_consuming, Some(60), 0);
            assert_heard(&[state(is_consuming, Some(15), 1), other.clone()], true);
            assert_heard(&[state(is_consuming, Some(3), 1), other], false);
        }
    }

    #[test]
    fn a_consumer_that_is_gone_counts_for_half_an_hour() {
        let other = state(true, Some(60), 0);
        assert_heard(&[state(true, Some(60), 3), other.clone()], false);
        assert_heard(&[state(true, Some(60), 31), other.clone()], true);
        assert_heard(&[state(false, Some(60), 3), other], true);
    }

    #[test]
    fn where_there_was_a_consumer_there_must_be_one() {
        let without = state(false, Some(60), 0);
        assert_heard(&[state(true, Some(60), 60 * 24), without.clone()], false);
        assert_heard(&[without], true);
    }
}
