//! Which delivery goes next. Pure: no endpoint waits for another, no owner for another's endpoints,
//! no first attempt for a retry.

use std::collections::{HashMap, VecDeque};

use uuid::Uuid;

use crate::store::Owed;

/// Attempts in flight to one endpoint.
pub(super) const PER_ENDPOINT: usize = 64;
/// A slowed endpoint keeps two: one for retries, one that only first attempts may take.
const LEAST_PER_ENDPOINT: usize = 2;
/// All endpoints of one owner together take at most this part of what other owners leave: however
/// many of them hang.
const SHARE_OF_OWNER: usize = 2;
/// An endpoint takes at most this part of what is still free of its owner's share, so that many
/// endpoints that hang leave room for the others.
const SHARE_OF_FREE: usize = 8;

/// A delivery that this process holds.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) owed: Owed,
    /// It was claimed from the table, not handed over by intake.
    pub(super) is_claimed: bool,
}

impl Job {
    fn is_retry(&self) -> bool {
        self.owed.is_retry()
    }
}

/// What a finished attempt says about the pace its endpoint can keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// It keeps up.
    Faster,
    /// It has too much to do.
    Slower,
    /// Nothing.
    Same,
}

/// A place in flight, to be given back when the attempt is over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) endpoint_id: Uuid,
    owner: Option<i64>,
    is_retry: bool,
}

/// Whose endpoints these are; `None`: staff's, who hear of everyone's sessions.
#[derive(Debug, Default)]
struct Owner {
    in_flight: usize,
    /// Endpoints that wait until another of theirs has ended.
    waiting: Vec<Uuid>,
}

#[derive(Debug)]
struct Line {
    first: VecDeque<Job>,
    retries: VecDeque<Job>,
    in_flight: usize,
    retries_in_flight: usize,
    limit: usize,
    owner: Option<i64>,
    /// It stands in `Queues::ready`.
    is_ready: bool,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            first: VecDeque::new(),
            retries: VecDeque::new(),
            in_flight: 0,
            retries_in_flight: 0,
            limit: PER_ENDPOINT,
            owner: None,
            is_ready: false,
        }
    }
}

impl Line {
    /// The next job, if one may start. Retries leave half of the places to first attempts: those
    /// must not wait until a retry has timed out.
    fn next(&mut self, limit: usize) -> Option<Job> {
        let limit = limit.min(self.limit);
        if self.in_flight >= limit {
            return None;
        }
        let may_retry = self.retries_in_flight < limit / 2;
        let job = self.first.pop_front().or_else(|| self.retries.pop_front_if(|_| may_retry))?;
        self.in_flight += 1;
        self.retries_in_flight += usize::from(job.is_retry());
        Some(job)
    }

    fn is_at_rest(&self) -> bool {
        let is_empty = self.first.is_empty() && self.retries.is_empty();
        is_empty && self.in_flight == 0 && self.limit == PER_ENDPOINT && !self.is_ready
    }
}

/// One line of deliveries per endpoint, served in turn.
#[derive(Debug)]
pub(super) struct Queues {
    lines: HashMap<Uuid, Line>,
    owners: HashMap<Option<i64>, Owner>,
    ready: VecDeque<Uuid>,
    in_flight: usize,
    total: usize,
}

impl Queues {
    /// Empty queues that let `total` attempts be in flight.
    pub(super) fn new(total: usize) -> Self {
        let (lines, owners, ready) = (HashMap::new(), HashMap::new(), VecDeque::new());
        Self { lines, owners, ready, in_flight: 0, total }
    }

    pub(super) fn push(&mut self, job: Job) {
        let endpoint_id = job.owed.endpoint_id;
        let line = self.lines.entry(endpoint_id).or_default();
        line.owner = job.owed.owner;
        let jobs = if job.is_retry() { &mut line.retries } else { &mut line.first };
        jobs.push_back(job);
        self.make_ready(endpoint_id);
    }

    /// The next delivery to attempt, if one may be: its endpoint then has one more in flight.
    pub(super) fn next(&mut self) -> Option<(Place, Job)> {
        while self.in_flight < self.total {
            let endpoint_id = self.ready.pop_front()?;
            let free = self.total - self.in_flight;
            let Some(line) = self.lines.get_mut(&endpoint_id) else { continue };
            line.is_ready = false;
            let owner = self.owners.entry(line.owner).or_default();
            let of_owner = ((free + owner.in_flight) / SHARE_OF_OWNER).max(LEAST_PER_ENDPOINT);
            if owner.in_flight >= of_owner {
                owner.waiting.push(endpoint_id);
                continue;
            }
            let share = ((of_owner - owner.in_flight) / SHARE_OF_FREE).max(LEAST_PER_ENDPOINT);
            // A line that may start nothing now has something in flight, or is empty. It gets
            // ready again when that is over.
            if let Some(job) = line.next(share) {
                self.in_flight += 1;
                owner.in_flight += 1;
                let place = Place { endpoint_id, owner: line.owner, is_retry: job.is_retry() };
                self.make_ready(endpoint_id);
                return Some((place, job));
            }
            let owner = line.owner;
            self.forget_if_at_rest(endpoint_id);
            self.forget_if_idle(owner);
        }
        None
    }

    /// An attempt is over.
    pub(super) fn finished(&mut self, place: Place, change: Pace) {
        self.in_flight -= 1;
        self.finished_for(place.owner);
        let Some(line) = self.lines.get_mut(&place.endpoint_id) else { return };
        line.in_flight -= 1;
        line.retries_in_flight -= usize::from(place.is_retry);
        line.limit = match change {
            Pace::Faster => (line.limit + 1).min(PER_ENDPOINT),
            Pace::Slower => (line.limit / 2).max(LEAST_PER_ENDPOINT),
            Pace::Same => line.limit,
        };
        self.make_ready(place.endpoint_id);
    }

    /// The owner's endpoints that waited may have their turn.
    fn finished_for(&mut self, owner: Option<i64>) {
        let Some(of_owner) = self.owners.get_mut(&owner) else { return };
        of_owner.in_flight -= 1;
        let waiting = std::mem::take(&mut of_owner.waiting);
        self.forget_if_idle(owner);
        for endpoint_id in waiting {
            self.make_ready(endpoint_id);
        }
    }

    /// Takes out what waits for one endpoint.
    pub(super) fn take(&mut self, endpoint_id: Uuid) -> Vec<Job> {
        let Some(line) = self.lines.get_mut(&endpoint_id) else { return Vec::new() };
        line.first.drain(..).chain(line.retries.drain(..)).collect()
    }

    /// Takes out everything that waits.
    pub(super) fn take_all(&mut self) -> Vec<Job> {
        let lines = self.lines.values_mut();
        lines.flat_map(|line| line.first.drain(..).chain(line.retries.drain(..))).collect()
    }

    fn make_ready(&mut self, endpoint_id: Uuid) {
        if let Some(line) = self.lines.get_mut(&endpoint_id)
            && !std::mem::replace(&mut line.is_ready, true)
        {
            self.ready.push_back(endpoint_id);
        }
    }

    fn forget_if_idle(&mut self, owner: Option<i64>) {
        let is_idle = |of_owner: &Owner| of_owner.in_flight == 0 && of_owner.waiting.is_empty();
        if self.owners.get(&owner).is_some_and(is_idle) {
            self.owners.remove(&owner);
        }
    }

    fn forget_if_at_rest(&mut self, endpoint_id: Uuid) {
        if self.lines.get(&endpoint_id).is_some_and(Line::is_at_rest) {
            self.lines.remove(&endpoint_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;
    use crate::webhook::{EventType, MessageId};

    /// A job for an endpoint; each is of an owner of its own.
    fn job(endpoint: u128, attempts: u32) -> Job {
        job_of(i64::try_from(endpoint).unwrap(), endpoint, attempts)
    }

    fn job_of(owner: i64, endpoint: u128, attempts: u32) -> Job {
        let owed = Owed {
            delivery_id: Uuid::nil(),
            process_id: Uuid::nil(),
            message_id: MessageId([0; 16]),
            endpoint_id: Uuid::from_u128(endpoint),
            owner: Some(owner),
            event_type: EventType::SessionFinalized,
            body: Bytes::new(),
            attempts,
            redelivered_after: None,
            told_at: DateTime::UNIX_EPOCH,
            trace: None,
        };
        Job { owed, is_claimed: attempts > 0 }
    }

    fn start_all(queues: &mut Queues) -> Vec<(Place, Job)> {
        std::iter::from_fn(|| queues.next()).collect()
    }

    fn started_for(started: &[(Place, Job)], endpoint: u128) -> usize {
        let endpoint = Uuid::from_u128(endpoint);
        started.iter().filter(|(place, _)| place.endpoint_id == endpoint).count()
    }

    #[test]
    fn an_endpoint_with_a_backlog_does_not_hold_up_another() {
        let mut queues = Queues::new(2048);
        (0..1000).for_each(|_| queues.push(job(1, 0)));
        queues.push(job(2, 0));
        let started = start_all(&mut queues);
        assert_eq!((started_for(&started, 1), started_for(&started, 2)), (64, 1));
    }

    #[test]
    fn endpoints_are_served_in_turn() {
        let mut queues = Queues::new(2048);
        (0..3).for_each(|_| queues.push(job(1, 0)));
        (0..3).for_each(|_| queues.push(job(2, 0)));
        let order: Vec<_> =
            start_all(&mut queues).iter().map(|(place, _)| place.endpoint_id.as_u128()).collect();
        assert_eq!(order, [1, 2, 1, 2, 1, 2]);
    }

    #[test]
    fn first_attempts_go_before_retries_and_retries_leave_half_of_the_places() {
        let mut queues = Queues::new(2048);
        (0..100).for_each(|_| queues.push(job(1, 3)));
        assert_eq!(start_all(&mut queues).len(), 32);
        (0..10).for_each(|_| queues.push(job(1, 0)));
        let started = start_all(&mut queues);
        assert_eq!(started.len(), 10);
        assert!(started.iter().all(|(_, job)| job.owed.attempts == 0));

        let mut queues = Queues::new(2048);
        queues.push(job(1, 3));
        queues.push(job(1, 0));
        assert_eq!(queues.next().unwrap().1.owed.attempts, 0);
        assert_eq!(queues.next().unwrap().1.owed.attempts, 3);
    }

    #[test]
    fn endpoints_that_hang_leave_room_for_those_that_do_not() {
        let mut queues = Queues::new(256);
        for endpoint in 0..200 {
            (0..100).for_each(|_| queues.push(job(endpoint, 0)));
            start_all(&mut queues);
        }
        let mut queues_of_few = Queues::new(256);
        (0..20).for_each(|endpoint| {
            (0..100).for_each(|_| queues_of_few.push(job(endpoint, 0)));
        });
        let hanging = start_all(&mut queues_of_few).len();
        assert!(hanging < 256, "{hanging}");
        queues_of_few.push(job(99, 0));
        assert_eq!(started_for(&start_all(&mut queues_of_few), 99), 1);
    }

    #[test]
    fn one_owners_flood_to_many_endpoints_leaves_room_for_other_owners() {
        let mut queues = Queues::new(2048);
        for endpoint in 0..100 {
            (0..100).for_each(|_| queues.push(job_of(7, endpoint, 0)));
        }
        let mut hanging = start_all(&mut queues);
        assert!(hanging.len() <= 2048 / SHARE_OF_OWNER, "{}", hanging.len());
        (0..64).for_each(|_| queues.push(job_of(8, 1000, 0)));
        let others = start_all(&mut queues);
        assert!(started_for(&others, 1000) >= 50, "{}", others.len());
        // What waited has its turn as others of its owner end, and nothing is forgotten.
        let mut served: std::collections::HashSet<_> =
            hanging.iter().map(|(place, _)| place.endpoint_id).collect();
        let mut done = 0;
        while let Some((place, _)) = hanging.pop() {
            queues.finished(place, Pace::Same);
            hanging.extend(start_all(&mut queues));
            served.extend(hanging.iter().map(|(place, _)| place.endpoint_id));
            done += 1;
        }
        assert_eq!((done, served.len()), (100 * 100, 100));
        assert!(queues.owners.keys().all(|owner| *owner == Some(8)), "{:?}", queues.owners);
    }

    #[test]
    fn an_overloaded_endpoint_is_slowed_down_and_recovers() {
        let mut queues = Queues::new(2048);
        (0..500).for_each(|_| queues.push(job(1, 0)));
        let in_flight = start_all(&mut queues);
        for (place, _) in in_flight {
            queues.finished(place, Pace::Slower);
        }
        let mut in_flight = start_all(&mut queues);
        assert_eq!(in_flight.len(), 2);
        for expected in 3..20 {
            queues.finished(in_flight.pop().unwrap().0, Pace::Faster);
            in_flight.extend(start_all(&mut queues));
            assert_eq!(in_flight.len(), expected);
        }
    }

    #[test]
    fn a_slowed_endpoint_still_has_a_place_for_a_first_attempt() {
        let mut queues = Queues::new(2048);
        queues.push(job(1, 0));
        for _ in 0..10 {
            let (place, _) = queues.next().unwrap();
            queues.finished(place, Pace::Slower);
            queues.push(job(1, 0));
        }
        for (place, _) in start_all(&mut queues) {
            queues.finished(place, Pace::Same);
        }
        (0..5).for_each(|_| queues.push(job(1, 2)));
        assert_eq!(start_all(&mut queues).len(), 1);
        queues.push(job(1, 0));
        assert_eq!(start_all(&mut queues).len(), 1);
    }

    proptest! {
        /// Whatever the order of arrivals and endings, everything goes out once, within limits.
        #[test]
        fn everything_goes_out(
            arrivals in proptest::collection::vec((0..3_i64, 0..6_u128, 0..2_u32), 0..400),
            picks in proptest::collection::vec(any::<prop::sample::Index>(), 400),
            total in 1..40_usize,
        ) {
            let mut queues = Queues::new(total);
            let count = arrivals.len();
            for (owner, endpoint, attempts) in arrivals {
                queues.push(job_of(owner, u128::from(owner.unsigned_abs()) * 10 + endpoint, attempts));
            }
            let (mut in_flight, mut done) = (Vec::new(), 0);
            for pick in picks {
                in_flight.extend(start_all(&mut queues).into_iter().map(|(place, _)| place));
                prop_assert!(in_flight.len() <= total);
                if in_flight.is_empty() { break; }
                let place = in_flight.swap_remove(pick.index(in_flight.len()));
                let pace = [Pace::Faster, Pace::Slower, Pace::Same][done % 3];
                queues.finished(place, pace);
                done += 1;
            }
            prop_assert_eq!(done, count);
            prop_assert!(queues.next().is_none() && queues.take_all().is_empty());
        }
    }
}
