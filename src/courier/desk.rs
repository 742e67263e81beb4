//! Where deliveries come in: what this process holds, under which id, and how much more it can.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use uuid::Uuid;

use super::queue::{Job, PER_ENDPOINT};
use crate::clock::Clock;
use crate::store::{DueEndpoint, HandOff, Owed, Slot};

/// Deliveries to one endpoint that intake may hand over.
const HANDED_PER_ENDPOINT: usize = 256;
/// Deliveries in all.
const HELD_IN_ALL: usize = 20_000;
/// Bytes of their bodies; a body that several deliveries share counts several times.
const HELD_BYTES: usize = 256 << 20;
/// The longest body there is, nearly: no more is claimed at once than there is room for if all
/// were so long.
const LONG_BODY: usize = 600 << 10;
/// An endpoint holds at most this part of what is still free, so that many that hang leave room for
/// the others.
const SHARE_OF_FREE: usize = 16;
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
    total: usize,
    bytes: usize,
    turn: usize,
    paused: HashMap<Uuid, DateTime<Utc>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Held {
    handed: usize,
    claimed: usize,
    bytes: usize,
}

impl Held {
    /// It holds its share of the room in memory.
    fn is_heavy(&self, free_bytes: usize) -> bool {
        self.bytes > free_bytes / SHARE_OF_FREE
    }
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
            state.held.entry(owed.endpoint_id).or_default().claimed += 1;
            state.total += 1;
        }
        drop(state);
        self.arrive(owed.into_iter().map(|owed| Job { owed, is_claimed: true }).collect());
    }

    fn arrive(&self, jobs: Vec<Job>) {
        let mut state = self.state();
        for job in &jobs {
            let bytes = job.owed.body.len();
            state.bytes += bytes;
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
        state.bytes = state.bytes.saturating_sub(bytes);
        if let Some(held) = state.held.get_mut(&job.owed.endpoint_id) {
            held.bytes = held.bytes.saturating_sub(bytes);
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
        if claimed == PER_ENDPOINT / 2 {
            self.much_room.notify_one();
        }
    }

    /// How many deliveries may be claimed of each of these endpoints.
    pub(super) fn slots(&self, endpoints: &[DueEndpoint]) -> Slots {
        let now = self.clock.now();
        let mut state = self.state();
        state.paused.retain(|_, until| *until > now);
        let free_bytes = state.free_bytes();
        let mut room = state.room().min(free_bytes / LONG_BODY).min(CLAIMED_AT_ONCE);
        let mut slots = Slots::default();
        // Each time another endpoint comes first: what room there is is not always the same one's.
        state.turn = state.turn.wrapping_add(1);
        let (later, sooner) = endpoints.split_at(state.turn % endpoints.len().max(1));
        let endpoints = sooner.iter().chain(later);
        for due in endpoints.filter(|due| !state.paused.contains_key(&due.endpoint_id)) {
            let DueEndpoint { endpoint_id, rate_limit_per_minute } = *due;
            let held = state.held.get(&endpoint_id).copied().unwrap_or_default();
            let share = PER_ENDPOINT.min(state.room() / SHARE_OF_FREE);
            let own = share.saturating_sub(held.claimed).min(room);
            let free = if held.is_heavy(free_bytes) { 0 } else { own };
            room -= free;
            match u32::try_from(free) {
                Ok(0) | Err(_) => slots.is_any_full = true,
                Ok(free) => slots.free.push(Slot { endpoint_id, free, rate_limit_per_minute }),
            }
        }
        slots
    }

    /// The receiver wants no requests until then.
    pub(super) fn pause(&self, endpoint_id: Uuid, until: DateTime<Utc>) {
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

    /// How many more deliveries this process can hold.
    fn room(&self) -> usize {
        if self.free_bytes() > 0 { HELD_IN_ALL.saturating_sub(self.total) } else { 0 }
    }

    fn free_bytes(&self) -> usize {
        HELD_BYTES.saturating_sub(self.bytes)
    }

    /// How many claimed deliveries of the endpoint are left.
    fn release(&mut self, endpoint_id: Uuid, is_claimed: bool) -> usize {
        self.total = self.total.saturating_sub(1);
        let Some(held) = self.held.get_mut(&endpoint_id) else { return 0 };
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
    fn reserve(&self, endpoint_id: Uuid) -> Option<Uuid> {
        let now = self.clock.now();
        let mut state = self.state();
        let process = state.lively_process()?;
        let is_paused = state.paused.get(&endpoint_id).is_some_and(|until| *until > now);
        let held = state.held.get(&endpoint_id).copied().unwrap_or_default();
        let share = HANDED_PER_ENDPOINT.min(state.room() / SHARE_OF_FREE);
        let is_full = held.handed >= share || held.is_heavy(state.free_bytes());
        if is_full && !state.is_closed && !is_paused {
            self.missed.notify_one();
        }
        if state.is_closed || is_paused || is_full {
            return None;
        }
        state.held.entry(endpoint_id).or_default().handed += 1;
        state.total += 1;
        Some(process)
    }

    fn cancel(&self, endpoint_id: Uuid) {
        self.state().release(endpoint_id, false);
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
            owner: None,
            event_type: crate::webhook::EventType::SessionFinalized,
            body,
            attempts: 0,
            redelivered_after: None,
        }
    }

    fn due(number: u128) -> DueEndpoint {
        DueEndpoint { endpoint_id: endpoint(number), rate_limit_per_minute: None }
    }

    #[test]
    fn a_process_that_does_not_live_reserves_nothing() {
        let desk = desk();
        assert_eq!(desk.reserve(endpoint(7)), None);
        desk.live(alive(10));
        assert_eq!(desk.reserve(endpoint(7)), Some(Uuid::from_u128(1)));
        desk.live(alive(1));
        assert_eq!(desk.reserve(endpoint(7)), None, "too little life is left");
        desk.live(alive(10));
        desk.lose();
        assert_eq!(desk.reserve(endpoint(7)), None);
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
        assert_eq!(desk.reserve(endpoint(7)), None);
    }

    #[test]
    fn one_endpoint_takes_256_and_cancelling_gives_room_back() {
        let desk = desk();
        desk.live(alive(10));
        (0..256).for_each(|_| assert!(desk.reserve(endpoint(7)).is_some()));
        assert_eq!(desk.reserve(endpoint(7)), None);
        assert!(desk.reserve(endpoint(8)).is_some());
        desk.cancel(endpoint(7));
        assert!(desk.reserve(endpoint(7)).is_some());
        assert_eq!(desk.reserve(endpoint(7)), None);
    }

    #[test]
    fn all_endpoints_together_take_20000() {
        let desk = desk();
        desk.live(alive(10));
        let reserved = (0..300 * 256).filter(|n| desk.reserve(endpoint(n / 256)).is_some());
        let reserved = reserved.count();
        assert!((19_900..=20_000).contains(&reserved), "{reserved}");
        assert_eq!(desk.slots(&[due(9999)]), Slots { free: vec![], is_any_full: true });
    }

    #[test]
    fn many_endpoints_that_hang_leave_room_for_others() {
        let desk = desk();
        desk.live(alive(10));
        for number in 0..100 {
            while desk.reserve(endpoint(number)).is_some() {}
        }
        let others = (0..8).filter(|number| desk.reserve(endpoint(1000 + number)).is_some());
        assert_eq!(others.count(), 8);
        assert!(!desk.slots(&[due(2000)]).free.is_empty());
    }

    #[test]
    fn an_endpoint_with_long_bodies_leaves_room_for_others() {
        let (desk, _arrivals) = Desk::new(Arc::new(SystemClock::default()));
        desk.live(alive(10));
        let body: bytes::Bytes = vec![0; LONG_BODY].into();
        let mut taken = 0;
        while desk.reserve(endpoint(7)).is_some() {
            desk.accept(vec![owed(7, body.clone())]);
            taken += 1;
        }
        assert!(taken < HANDED_PER_ENDPOINT, "{taken}");
        assert!(desk.reserve(endpoint(8)).is_some());
        let slots = desk.slots(&[due(7), due(8)]);
        assert!(slots.is_any_full && slots.free.len() == 1, "{slots:?}");
    }

    #[test]
    fn large_bodies_leave_room_for_fewer() {
        let (desk, mut arrivals) = Desk::new(Arc::new(SystemClock::default()));
        desk.live(alive(10));
        assert!(desk.reserve(endpoint(7)).is_some());
        desk.accept(vec![owed(7, vec![0; HELD_BYTES].into())]);
        assert_eq!(desk.reserve(endpoint(8)), None);
        assert!(desk.slots(&[due(8)]).is_any_full);
        arrivals.try_recv().unwrap().iter().for_each(|job| desk.free(job));
        assert!(desk.reserve(endpoint(8)).is_some());
    }

    #[test]
    fn what_finds_no_room_is_told_to_the_sweep() {
        let desk = desk();
        desk.live(alive(10));
        (0..HANDED_PER_ENDPOINT).for_each(|_| assert!(desk.reserve(endpoint(7)).is_some()));
        assert!(desk.missed.notified().now_or_never().is_none());
        assert_eq!(desk.reserve(endpoint(7)), None);
        assert!(desk.missed.notified().now_or_never().is_some());
        desk.pause(endpoint(8), SystemClock::machine_now() + chrono::TimeDelta::hours(1));
        assert_eq!(desk.reserve(endpoint(8)), None);
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
    fn a_paused_endpoint_takes_nothing_until_its_time() {
        let desk = desk();
        desk.live(alive(10));
        let now = SystemClock::machine_now();
        desk.pause(endpoint(7), now + chrono::TimeDelta::hours(1));
        desk.pause(endpoint(7), now);
        desk.pause(endpoint(8), now - chrono::TimeDelta::seconds(1));
        assert_eq!(desk.reserve(endpoint(7)), None);
        assert!(desk.reserve(endpoint(8)).is_some());
        let slots = desk.slots(&[due(7), due(8)]);
        let free = Slot { endpoint_id: endpoint(8), free: 64, rate_limit_per_minute: None };
        assert_eq!(slots, Slots { free: vec![free], is_any_full: false });
    }
}
