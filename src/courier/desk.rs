//! Where deliveries come in: what this process holds, under which id, and how much more it can.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use uuid::Uuid;

use super::queue::{Job, PER_ENDPOINT};
use crate::clock::Clock;
use crate::store::{DueEndpoint, HandOff, Owed, Slot};
use crate::webhook::RateLimit;

/// Deliveries to one endpoint that intake may hand over.
const HANDED_PER_ENDPOINT: usize = 256;
/// The same while little is held in all: what finds no room here costs the database more.
const HANDED_WHILE_QUIET: usize = 512;
/// So much is little.
const QUIET: usize = 4096;
/// Deliveries in all.
const HELD_IN_ALL: usize = 20_000;
/// Bytes of their bodies; a body that several deliveries share counts several times.
const HELD_BYTES: usize = 256 << 20;
/// The longest body there is, nearly: no more is claimed at once than there is room for if all
/// were so long.
const LONG_BODY: usize = 600 << 10;
/// All endpoints of one owner hold at most this part of what other owners leave.
const SHARE_OF_OWNER: usize = 2;
/// An endpoint holds at most this part of what is still free of its owner's, so that many that hang
/// leave room for the others.
const SHARE_OF_FREE: usize = 16;
/// A pause is remembered here for so long; the table knows until when it really goes, and whether
/// somebody has ended it.
const PAUSE: TimeDelta = TimeDelta::seconds(5);
/// Deliveries in one claim.
const CLAIMED_AT_ONCE: usize = 1024;
/// With less than this to live no POST is started: its result could come too late to count.
const LEAST_LIFE: Duration = Duration::from_secs(2);

/// This process's place in the table of living processes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life {
    pub(super) process: Uuid,
    pub(super) until: Instant,
}

/// The courier's counter: takes deliveries from intake and from the sweep.
pub struct Desk {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    arrivals: mpsc::UnboundedSender<Vec<Job>>,
    /// Something that the loop should look at has changed: the process's life.
    pub(super) changed: Notify,
    /// The present id is to be given up.
    pub(super) disowned: Notify,
    /// An endpoint has room again for what waits in the table.
    pub(super) room: Notify,
    /// The same, for half of what may be in flight to it.
    pub(super) much_room: Notify,
    /// A delivery found no room here and waits in the table.
    pub(super) missed: Notify,
}

/// What may be claimed of endpoints that have something due.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Slots {
    /// Of these so many each.
    pub(super) free: Vec<Slot>,
    /// Of some other there is no room for more.
    pub(super) is_any_full: bool,
}

#[derive(Default)]
struct State {
    life: Option<Life>,
    /// The last id that was to be given up at once.
    disowned: Option<Uuid>,
    is_closed: bool,
    held: HashMap<Uuid, Held>,
    owners: HashMap<Option<i64>, Amount>,
    all: Amount,
    turn: usize,
    paused: HashMap<Uuid, DateTime<Utc>>,
}

/// What is held.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Amount {
    deliveries: usize,
    bytes: usize,
}

/// What is held of one endpoint's.
#[derive(Debug, Default, Clone, Copy)]
struct Held {
    owner: Option<i64>,
    handed: usize,
    claimed: usize,
    /// Of those claimed.
    retries: usize,
    bytes: usize,
}

impl Desk {
    pub(super) fn new(clock: Arc<dyn Clock>) -> (Self, mpsc::UnboundedReceiver<Vec<Job>>) {
        let (arrivals, receiver) = mpsc::unbounded_channel();
        let desk = Self {
            clock,
            state: Mutex::default(),
            arrivals,
            changed: Notify::new(),
            disowned: Notify::new(),
            room: Notify::new(),
            much_room: Notify::new(),
            missed: Notify::new(),
        };
        (desk, receiver)
    }

    /// Takes deliveries that were reserved and are now committed.
    pub fn accept(&self, owed: Vec<Owed>) {
        self.arrive(owed.into_iter().map(|owed| Job { owed, is_claimed: false }).collect());
    }

    /// Takes deliveries that were claimed.
    pub(super) fn accept_claimed(&self, owed: Vec<Owed>) {
        let mut state = self.state();
        for owed in &owed {
            let held = state.hold(owed.endpoint_id, owed.owner);
            held.claimed += 1;
            held.retries += usize::from(owed.is_retry());
        }
        drop(state);
        self.arrive(owed.into_iter().map(|owed| Job { owed, is_claimed: true }).collect());
    }

    /// How many deliveries are held.
    pub(super) fn held(&self) -> usize {
        self.state().all.deliveries
    }

    fn arrive(&self, jobs: Vec<Job>) {
        let mut state = self.state();
        for job in &jobs {
            let bytes = job.owed.body.len();
            state.all.bytes += bytes;
            state.owners.entry(job.owed.owner).or_default().bytes += bytes;
            state.held.entry(job.owed.endpoint_id).or_default().bytes += bytes;
        }
        drop(state);
        if let Err(unsent) = self.arrivals.send(jobs) {
            unsent.0.iter().for_each(|job| self.free(job));
        }
    }

    /// A delivery is held no more: recorded, given back or dropped.
    pub(super) fn free(&self, job: &Job) {
        let mut state = self.state();
        let bytes = job.owed.body.len();
        state.all.bytes = state.all.bytes.saturating_sub(bytes);
        if let Some(owner) = state.owners.get_mut(&job.owed.owner) {
            owner.bytes = owner.bytes.saturating_sub(bytes);
        }
        if let Some(held) = state.held.get_mut(&job.owed.endpoint_id) {
            held.bytes = held.bytes.saturating_sub(bytes);
            let is_claimed_retry = job.is_claimed && job.owed.is_retry();
            held.retries = held.retries.saturating_sub(usize::from(is_claimed_retry));
        }
        let claimed = state.release(job.owed.endpoint_id, job.is_claimed);
        drop(state);
        if job.is_claimed {
            self.tell_room(claimed);
        }
    }

    /// One of an endpoint's claimed deliveries is held no more; so many are left.
    fn tell_room(&self, claimed: usize) {
        self.room.notify_one();
        // An endpoint that has only retries was given half of the places.
        if claimed == PER_ENDPOINT / 2 || claimed == PER_ENDPOINT / 4 {
            self.much_room.notify_one();
        }
    }

    /// How many deliveries may be claimed of each of these endpoints.
    pub(super) fn slots(&self, endpoints: &[DueEndpoint]) -> Slots {
        let now = self.clock.now();
        let mut state = self.state();
        state.paused.retain(|_, until| *until > now);
        let free = state.free();
        let mut room = free.deliveries.min(free.bytes / LONG_BODY).min(CLAIMED_AT_ONCE);
        let mut slots = Slots::default();
        // Each time another endpoint comes first: what room there is is not always the same one's.
        state.turn = state.turn.wrapping_add(1);
        let (later, sooner) = endpoints.split_at(state.turn % endpoints.len().max(1));
        let endpoints = sooner.iter().chain(later);
        for due in endpoints.filter(|due| !state.paused.contains_key(&due.endpoint_id)) {
            let slot = state.slot(*due, room);
            room -= usize::try_from(slot.free).unwrap_or(room);
            slots.is_any_full |= slot.free == 0;
            if slot.free > 0 {
                slots.free.push(slot);
            }
        }
        slots
    }

    /// The receiver wants no requests until then.
    pub(super) fn pause(&self, endpoint_id: Uuid, until: DateTime<Utc>) {
        let until = until.min(self.clock.now() + PAUSE);
        let mut state = self.state();
        let paused = state.paused.entry(endpoint_id).or_insert(until);
        *paused = until.max(*paused);
    }

    pub(super) fn is_paused(&self, endpoint_id: Uuid) -> bool {
        let now = self.clock.now();
        self.state().paused.get(&endpoint_id).is_some_and(|until| *until > now)
    }

    /// The process lives until then, under this id; unless that was disowned while it was being
    /// renewed.
    pub(super) fn live(&self, life: Life) {
        let mut state = self.state();
        if state.disowned != Some(life.process) {
            state.life = Some(life);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Waits until this id is disowned.
    pub(super) async fn is_disowned(&self, process: Uuid) {
        while self.state().disowned != Some(process) {
            self.disowned.notified().await;
        }
    }

    /// The process has lost its id, and with it everything it holds.
    pub(super) fn lose(&self) {
        self.state().life = None;
        self.changed.notify_one();
    }

    /// Takes no more reservations.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
    }

    /// The id under which deliveries are held.
    pub(super) fn process(&self) -> Option<Uuid> {
        self.state().life.map(|life| life.process)
    }

    /// The id under which something may be started now.
    pub(super) fn lively_process(&self) -> Option<Uuid> {
        self.state().lively_process()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lively_process(&self) -> Option<Uuid> {
        let life = self.life?;
        (Instant::now() + LEAST_LIFE < life.until).then_some(life.process)
    }

    /// How much more this process can hold.
    fn free(&self) -> Amount {
        Amount {
            deliveries: HELD_IN_ALL.saturating_sub(self.all.deliveries),
            bytes: HELD_BYTES.saturating_sub(self.all.bytes),
        }
    }

    /// How many more of an endpoint's deliveries this process may hold, of `most` at most.
    fn share(&self, endpoint_id: Uuid, owner: Option<i64>, most: usize) -> usize {
        let (free, own) = (self.free(), self.owners.get(&owner).copied().unwrap_or_default());
        let left = |free: usize, own: usize| ((free + own) / SHARE_OF_OWNER).saturating_sub(own);
        let deliveries = left(free.deliveries, own.deliveries) / SHARE_OF_FREE;
        let bytes = left(free.bytes, own.bytes) / SHARE_OF_FREE;
        let held_bytes = self.held.get(&endpoint_id).map_or(0, |held| held.bytes);
        if held_bytes >= bytes { 0 } else { most.min(deliveries) }
    }

    /// What may be claimed of an endpoint, if there is so much room.
    fn slot(&self, due: DueEndpoint, room: usize) -> Slot {
        let DueEndpoint { endpoint_id, owner, rate_limit_per_minute } = due;
        let held = self.held.get(&endpoint_id).copied().unwrap_or_default();
        let burst = rate_limit_per_minute.map(|limit| RateLimit::new(limit).burst());
        let burst = burst.and_then(|burst| usize::try_from(burst).ok()).unwrap_or(PER_ENDPOINT);
        let share = self.share(endpoint_id, owner, PER_ENDPOINT).saturating_sub(held.claimed);
        let free = share.min(burst).min(room);
        let for_retries = (PER_ENDPOINT / 2).saturating_sub(held.retries).min(free);
        let number = |count| u32::try_from(count).unwrap_or(0);
        Slot {
            endpoint_id,
            free: number(free),
            free_for_retries: number(for_retries),
            rate_limit_per_minute,
        }
    }

    /// One more delivery is held.
    fn hold(&mut self, endpoint_id: Uuid, owner: Option<i64>) -> &mut Held {
        self.all.deliveries += 1;
        self.owners.entry(owner).or_default().deliveries += 1;
        let held = self.held.entry(endpoint_id).or_default();
        held.owner = owner;
        held
    }

    /// How many claimed deliveries of the endpoint are left.
    fn release(&mut self, endpoint_id: Uuid, is_claimed: bool) -> usize {
        self.all.deliveries = self.all.deliveries.saturating_sub(1);
        let Some(held) = self.held.get_mut(&endpoint_id) else { return 0 };
        if let Some(owner) = self.owners.get_mut(&held.owner) {
            owner.deliveries = owner.deliveries.saturating_sub(1);
            if owner.deliveries == 0 {
                self.owners.remove(&held.owner);
            }
        }
        let count = if is_claimed { &mut held.claimed } else { &mut held.handed };
        *count = count.saturating_sub(1);
        let left = *held;
        if left.claimed + left.handed == 0 {
            self.held.remove(&endpoint_id);
        }
        left.claimed
    }
}

impl HandOff for Desk {
    fn reserve(&self, endpoint_id: Uuid, owner: Option<i64>) -> Option<Uuid> {
        let now = self.clock.now();
        let mut state = self.state();
        let process = state.lively_process()?;
        let is_paused = state.paused.get(&endpoint_id).is_some_and(|until| *until > now);
        let handed = state.held.get(&endpoint_id).map_or(0, |held| held.handed);
        let is_quiet = state.all.deliveries < QUIET;
        let most = if is_quiet { HANDED_WHILE_QUIET } else { HANDED_PER_ENDPOINT };
        let is_full = handed >= state.share(endpoint_id, owner, most);
        if is_full && !state.is_closed && !is_paused {
            self.missed.notify_one();
        }
        if state.is_closed || is_paused || is_full {
            return None;
        }
        state.hold(endpoint_id, owner).handed += 1;
        Some(process)
    }

    fn cancel(&self, endpoint_id: Uuid) {
        self.state().release(endpoint_id, false);
    }

    #[cfg(feature = "crash-points")]
    fn accept_early(&self, owed: Vec<Owed>) {
        self.accept(owed);
    }

    fn disown(&self, process_id: Uuid) {
        let mut state = self.state();
        if state.life.is_none_or(|life| life.process != process_id) {
            // It was lost in the meantime.
            return;
        }
        state.disowned = Some(process_id);
        state.life = None;
        drop(state);
        self.disowned.notify_one();
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::clock::SystemClock;

    fn desk() -> Desk {
        Desk::new(Arc::new(SystemClock::default())).0
    }

    fn alive(seconds: u64) -> Life {
        Life { process: Uuid::from_u128(1), until: Instant::now() + Duration::from_secs(seconds) }
    }

    fn endpoint(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn owed(number: u128, body: bytes::Bytes) -> Owed {
        Owed {
            delivery_id: Uuid::nil(),
            process_id: Uuid::from_u128(1),
            message_id: crate::webhook::MessageId([0; 16]),
            endpoint_id: endpoint(number),
            owner: Some(1),
            event_type: crate::webhook::EventType::SessionFinalized,
            body,
            attempts: 0,
            redelivered_after: None,
            told_at: DateTime::UNIX_EPOCH,
            trace: None,
        }
    }

    fn due(number: u128) -> DueEndpoint {
        DueEndpoint { endpoint_id: endpoint(number), owner: Some(1), rate_limit_per_minute: None }
    }

    #[test]
    fn a_process_that_does_not_live_reserves_nothing() {
        let desk = desk();
        assert_eq!(desk.reserve(endpoint(7), Some(1)), None);
        desk.live(alive(10));
        assert_eq!(desk.reserve(endpoint(7), Some(1)), Some(Uuid::from_u128(1)));
        desk.live(alive(1));
        assert_eq!(desk.reserve(endpoint(7), Some(1)), None, "too little life is left");
        desk.live(alive(10));
        desk.lose();
        assert_eq!(desk.reserve(endpoint(7), Some(1)), None);
    }

    #[test]
    fn an_id_that_is_disowned_does_not_come_back_and_takes_no_other_with_it() {
        let desk = desk();
        desk.live(alive(10));
        desk.disown(Uuid::from_u128(2));
        assert_eq!(desk.process(), Some(Uuid::from_u128(1)));
        desk.disown(Uuid::from_u128(1));
        desk.live(alive(10));
        assert_eq!(desk.process(), None, "it was being renewed");
        desk.live(Life { process: Uuid::from_u128(3), ..alive(10) });
        assert_eq!(desk.process(), Some(Uuid::from_u128(3)));
    }

    #[test]
    fn a_courier_that_is_closing_reserves_nothing() {
        let desk = desk();
        desk.live(alive(10));
        desk.close();
        assert_eq!(desk.reserve(endpoint(7), Some(1)), None);
    }

    #[test]
    fn one_endpoint_takes_its_part_and_cancelling_gives_room_back() {
        let desk = desk();
        desk.live(alive(10));
        (0..HANDED_WHILE_QUIET).for_each(|_| assert!(desk.reserve(endpoint(7), Some(1)).is_some()));
        assert_eq!(desk.reserve(endpoint(7), Some(1)), None);
        assert!(desk.reserve(endpoint(8), Some(1)).is_some());
        desk.cancel(endpoint(7));
        assert!(desk.reserve(endpoint(7), Some(1)).is_some());
        assert_eq!(desk.reserve(endpoint(7), Some(1)), None);
    }

    #[test]
    fn while_much_is_held_an_endpoint_takes_less() {
        let desk = desk();
        desk.live(alive(10));
        let mut others = 0;
        for number in 100.. {
            if others >= QUIET {
                break;
            }
            let owner = i64::try_from(number).ok();
            let taken = (0..512).filter(|_| desk.reserve(endpoint(number), owner).is_some());
            others += taken.count();
        }
        let taken = (0..600).filter(|_| desk.reserve(endpoint(7), Some(1)).is_some());
        assert_eq!(taken.count(), HANDED_PER_ENDPOINT);
    }

    #[test]
    fn all_endpoints_together_take_20000() {
        let desk = desk();
        desk.live(alive(10));
        let of = |number: u128| (endpoint(number), i64::try_from(number / 50).ok());
        let mut reserved = 0;
        for (endpoint, owner) in (0..2000).map(of) {
            reserved += (0..HANDED_PER_ENDPOINT)
                .filter(|_| desk.reserve(endpoint, owner).is_some())
                .count();
        }
        assert!((19_900..=20_000).contains(&reserved), "{reserved}");
        assert_eq!(desk.slots(&[due(9999)]), Slots { free: vec![], is_any_full: true });
    }

    #[test]
    fn many_endpoints_that_hang_leave_room_for_others() {
        let desk = desk();
        desk.live(alive(10));
        for number in 0..100 {
            while desk.reserve(endpoint(number), Some(2)).is_some() {}
        }
        let own = (0..8).filter(|number| desk.reserve(endpoint(1000 + number), Some(2)).is_some());
        assert_eq!(own.count(), 8, "of the same owner");
        let others = (0..HANDED_PER_ENDPOINT)
            .filter(|_| desk.reserve(endpoint(2000), Some(3)).is_some())
            .count();
        assert_eq!(others, HANDED_PER_ENDPOINT, "another owner has all that one endpoint can have");
        assert_eq!(desk.slots(&[due(3000)]).free[0].free, 64);
    }

    #[test]
    fn an_endpoint_with_long_bodies_leaves_room_for_others() {
        let (desk, _arrivals) = Desk::new(Arc::new(SystemClock::default()));
        desk.live(alive(10));
        let body: bytes::Bytes = vec![0; LONG_BODY].into();
        let mut taken = 0;
        while desk.reserve(endpoint(7), Some(1)).is_some() {
            desk.accept(vec![owed(7, body.clone())]);
            taken += 1;
        }
        assert!(taken < HANDED_PER_ENDPOINT, "{taken}");
        assert!(desk.reserve(endpoint(8), Some(1)).is_some());
        let slots = desk.slots(&[due(7), due(8)]);
        assert!(slots.is_any_full && slots.free.len() == 1, "{slots:?}");
    }

    #[test]
    fn large_bodies_leave_room_for_fewer() {
        let (desk, mut arrivals) = Desk::new(Arc::new(SystemClock::default()));
        desk.live(alive(10));
        assert!(desk.reserve(endpoint(7), Some(1)).is_some());
        desk.accept(vec![owed(7, vec![0; HELD_BYTES].into())]);
        assert_eq!(desk.reserve(endpoint(8), Some(1)), None);
        assert!(desk.slots(&[due(8)]).is_any_full);
        arrivals.try_recv().unwrap().iter().for_each(|job| desk.free(job));
        assert!(desk.reserve(endpoint(8), Some(1)).is_some());
    }

    #[test]
    fn what_finds_no_room_is_told_to_the_sweep() {
        let desk = desk();
        desk.live(alive(10));
        (0..HANDED_WHILE_QUIET).for_each(|_| assert!(desk.reserve(endpoint(7), Some(1)).is_some()));
        assert!(desk.missed.notified().now_or_never().is_none());
        assert_eq!(desk.reserve(endpoint(7), Some(1)), None);
        assert!(desk.missed.notified().now_or_never().is_some());
        desk.pause(endpoint(8), SystemClock::machine_now() + chrono::TimeDelta::hours(1));
        assert_eq!(desk.reserve(endpoint(8), Some(1)), None);
        assert!(desk.missed.notified().now_or_never().is_none(), "it waits for its time");
    }

    #[test]
    fn half_of_an_endpoints_places_free_again_is_much_room() {
        let desk = desk();
        desk.state().held.insert(endpoint(7), Held { claimed: PER_ENDPOINT, ..Held::default() });
        let free_one = || {
            let claimed = desk.state().release(endpoint(7), true);
            desk.tell_room(claimed);
        };
        (1..PER_ENDPOINT / 2).for_each(|_| free_one());
        assert!(desk.room.notified().now_or_never().is_some());
        assert!(desk.much_room.notified().now_or_never().is_none());
        free_one();
        assert!(desk.much_room.notified().now_or_never().is_some());
    }

    #[test]
    fn when_there_is_not_room_for_all_endpoints_they_take_turns() {
        let desk = desk();
        let endpoints: Vec<_> = (0..100).map(due).collect();
        let slots = (0..100).flat_map(|_| desk.slots(&endpoints).free);
        let served: std::collections::HashSet<_> = slots.map(|slot| slot.endpoint_id).collect();
        // If all bodies were long there would be room for 436, 64 of an endpoint.
        assert_eq!(desk.slots(&endpoints).free.len(), 7);
        assert_eq!(served.len(), 100);
    }

    #[test]
    fn retries_are_claimed_for_half_of_the_places() {
        let (desk, _arrivals) = Desk::new(Arc::new(SystemClock::default()));
        desk.live(alive(10));
        let retry = || Owed { attempts: 1, ..owed(7, bytes::Bytes::new()) };
        desk.accept_claimed((0..32).map(|_| retry()).collect());
        let slot = desk.slots(&[due(7)]).free[0];
        assert_eq!((slot.free, slot.free_for_retries), (32, 0));
        desk.free(&Job { owed: retry(), is_claimed: true });
        let slot = desk.slots(&[due(7)]).free[0];
        assert_eq!((slot.free, slot.free_for_retries), (33, 1));
    }

    #[test]
    fn a_limited_endpoint_takes_no_more_of_a_claim_than_its_burst() {
        let desk = desk();
        desk.live(alive(10));
        let limited = DueEndpoint { rate_limit_per_minute: Some(60), ..due(7) };
        assert_eq!(desk.slots(&[limited]).free[0].free, 1);
    }

    #[test]
    fn a_paused_endpoint_takes_nothing_until_its_time() {
        let desk = desk();
        desk.live(alive(10));
        let now = SystemClock::machine_now();
        desk.pause(endpoint(7), now + chrono::TimeDelta::hours(1));
        desk.pause(endpoint(7), now);
        desk.pause(endpoint(8), now - chrono::TimeDelta::seconds(1));
        assert_eq!(desk.reserve(endpoint(7), Some(1)), None);
        assert!(desk.reserve(endpoint(8), Some(1)).is_some());
        let slots = desk.slots(&[due(7), due(8)]);
        let free = Slot {
            endpoint_id: endpoint(8),
            free: 64,
            free_for_retries: 32,
            rate_limit_per_minute: None,
        };
        assert_eq!(slots, Slots { free: vec![free], is_any_full: false });
    }
}
