//! Up to which moment everything that was in the queue is taken.
//!
//! A queue hands out its messages in their order, whoever gets them. So what was waiting in it at some
//! moment is handed out once this consumer alone has got as many more, and what this consumer was given
//! is taken once it is acknowledged; other consumers speak for themselves. On a busy queue, which is
//! never seen empty, that still tells those who keep up from those who do not.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// How often the queue is asked. A mark that is not reached by then is given up for a new one.
pub(super) const MARK_EVERY: Duration = Duration::from_secs(20);

/// The latest mark, and how far this consumer has come.
#[derive(Debug, Default)]
pub(super) struct Marks {
    arrived: u64,
    acknowledged: u64,
    mark: Option<(DateTime<Utc>, u64)>,
}

impl Marks {
    /// A delivery has arrived. Tags rise by one.
    pub(super) fn arrived(&mut self, tag: u64) {
        self.arrived = self.arrived.max(tag);
    }

    /// Everything up to this delivery is acknowledged.
    pub(super) fn acknowledged(&mut self, tag: u64) {
        self.acknowledged = self.acknowledged.max(tag);
    }

    /// At that time so many were left in the queue.
    pub(super) fn set(&mut self, at: DateTime<Utc>, left: u32) {
        self.mark = Some((at, self.arrived + u64::from(left)));
    }

    /// The time of the mark, once everything is taken that was in the queue then.
    pub(super) fn reached(&mut self) -> Option<DateTime<Utc>> {
        let (at, _) = self.mark.take_if(|(_, last)| *last <= self.acknowledged)?;
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_780_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn an_idle_queue_is_always_taken() {
        let mut marks = Marks::default();
        assert_eq!(marks.reached(), None);
        marks.set(at(0), 0);
        assert_eq!((marks.reached(), marks.reached()), (Some(at(0)), None));
    }

    #[test]
    fn what_was_waiting_must_come_and_what_came_must_be_acknowledged() {
        let mut marks = Marks::default();
        marks.arrived(1);
        marks.arrived(2);
        marks.set(at(0), 3);
        marks.acknowledged(2);
        assert_eq!(marks.reached(), None);
        marks.arrived(5);
        marks.acknowledged(4);
        assert_eq!(marks.reached(), None);
        marks.acknowledged(5);
        assert_eq!(marks.reached(), Some(at(0)));
    }

    #[test]
    fn a_mark_that_was_not_reached_gives_way_to_the_next() {
        let mut marks = Marks::default();
        marks.set(at(0), 3);
        marks.set(at(20), 0);
        assert_eq!(marks.reached(), Some(at(20)));
    }
}
