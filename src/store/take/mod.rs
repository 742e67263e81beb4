//! Taking a batch: load what it touches, let [`plan`] decide, write what it says. The same for
//! both databases, which differ in how a [`Transaction`] reads and writes.

mod new;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::transaction::{
    DeliveryToKeep, EgressKeys, FailureToKeep, MessageToKeep, RoomKeys, RoomSpan, SessionKeys,
    Transaction, WhenLocked,
};
use super::{Batch, Ending, HandOff, Owed, StoreError, Taken, Terms, Tried, Unjoined, failures};
use crate::clock::new_id;
use crate::crash::{self, Point};
use crate::event::Digest;
use crate::event::Named;
use crate::finalize::{
    Change, Erased, FinishedRoom, JoinedBy, JoinedEgress, Outcome, Plan, Prepared, Session,
    Snapshot, plan,
};
use crate::webhook::{MessageId, PayloadKind};

pub(super) use new::{Blank, TakesNew, take_new};

/// How many times a batch is taken anew because another worker made one of its sessions or
/// recordings at the same moment. Each time one more of them is there to be locked, so it ends.
const MAX_RACES: usize = 100;

/// Takes a batch in transactions that `begin` opens, until one goes through.
pub(super) async fn take<'s, F>(
    begin: impl Fn() -> F,
    installation: Uuid,
    batch: Batch<'_>,
) -> Result<Taken, StoreError>
where
    F: Future<Output = Result<Box<dyn Transaction + 's>, StoreError>>,
{
    until_taken(begin, installation, batch, None)
        .await
        .map(|taken| taken.expect("only a replay can be lost"))
}

/// Takes the event of a replay, with the end of the replay in the same transaction; `None` if the
/// replay is not this process's any more.
pub(super) async fn take_again<'s, F>(
    begin: impl Fn() -> F,
    installation: Uuid,
    ending: &Ending<'_>,
) -> Result<Option<Taken>, StoreError>
where
    F: Future<Output = Result<Box<dyn Transaction + 's>, StoreError>>,
{
    let batch = Batch { terms: ending.terms, events: std::slice::from_ref(ending.event) };
    until_taken(begin, installation, batch, Some(ending)).await
}

/// What would become of an event. The transaction is for reading: it is never committed.
pub(super) async fn try_out(
    tx: &mut dyn Transaction,
    installation: Uuid,
    terms: Terms<'_>,
    event: &Prepared,
) -> Result<Tried, StoreError> {
    let events = std::slice::from_ref(event);
    let mut keys = session_keys(events);
    let later = WhenLocked::Wait;
    let Loaded { sessions, egresses, checkpoints, rooms } =
        load(tx, events, &mut keys, later).await?;
    let stored = session_of(event).and_then(|session| sessions.get(&session.session_id)).cloned();
    let unknown = session_ids(events).filter(|id| !sessions.contains_key(id)).count();
    let erased = tx.erased(&Erased::candidates(events)).await?;
    let snapshot = Snapshot {
        now: terms.now,
        installation,
        public_url: terms.public_url,
        place: terms.recordings_place,
        sessions,
        egresses,
        checkpoints,
        rooms,
        erased: &erased,
        numbers: vec![0; unknown],
        endpoints: &[],
    };
    let outcome = plan(snapshot, events).outcomes.pop();
    Ok(Tried { outcome: outcome.expect("one event has one outcome"), stored })
}

/// What is known of a batch before a transaction, from those before it.
struct Known {
    /// Where to look for its sessions.
    keys: SessionKeys,
    /// What it names that was erased.
    erased: Erased,
}

/// What one transaction came to.
enum Once {
    Taken(Taken),
    /// Another worker was first to make one of its sessions or recordings.
    Raced,
    /// The replay is another's now, or over.
    Lost,
}

async fn until_taken<'s, F>(
    begin: impl Fn() -> F,
    installation: Uuid,
    batch: Batch<'_>,
    ending: Option<&Ending<'_>>,
) -> Result<Option<Taken>, StoreError>
where
    F: Future<Output = Result<Box<dyn Transaction + 's>, StoreError>>,
{
    let mut known = Known { keys: session_keys(batch.events), erased: Erased::default() };
    for _ in 0..MAX_RACES {
        match take_once(begin().await?, installation, batch, ending, &mut known).await {
            Ok(Once::Taken(taken)) => return Ok(Some(taken)),
            Ok(Once::Lost) => return Ok(None),
            Ok(Once::Raced) => {}
            Err(error) if is_race(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::Transient(anyhow::anyhow!("other workers were first {MAX_RACES} times")))
}

/// SQLSTATE class 40: the transaction was the victim of a deadlock, and may go through at once.
/// 55P03: it did not wait for a lock, and knows now which ones to wait for in their order.
fn is_race(error: &StoreError) -> bool {
    let StoreError::Transient(error) = error else { return false };
    let code = error
        .downcast_ref::<sqlx::Error>()
        .and_then(sqlx::Error::as_database_error)
        .and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code.len() == 5 && code.starts_with("40") || code == "55P03")
}

/// Dies, or delivers too early, if the process was told to. What is still owed.
#[cfg_attr(not(feature = "crash-points"), expect(unused_variables, reason = "a defect needs them"))]
fn before_commit(owed: Vec<Owed>, terms: &Terms<'_>) -> Vec<Owed> {
    crash::point(Point::BeforeCommit);
    #[cfg(feature = "crash-points")]
    if crash::has(crash::Defect::DeliverBeforeCommit) {
        terms.desk.accept_early(owed);
        return Vec::new();
    }
    owed
}

/// Takes a batch in one transaction; the one event of a replay together with its end.
async fn take_once(
    mut tx: Box<dyn Transaction + '_>,
    installation: Uuid,
    batch: Batch<'_>,
    ending: Option<&Ending<'_>>,
    Known { keys, erased }: &mut Known,
) -> Result<Once, StoreError> {
    let Batch { terms, events } = batch;
    let Loaded { sessions, egresses, checkpoints, rooms } =
        load(tx.as_mut(), events, keys, WhenLocked::Fail).await?;
    let endpoints = tx.endpoints(&owners(events, &sessions)).await?;
    let unknown = session_ids(events).filter(|id| !sessions.contains_key(id)).count();
    let numbers = if unknown == 0 { Vec::new() } else { tx.numbers(unknown).await? };
    let mut candidates = Erased::candidates(events);
    candidates.sessions.retain(|id| !sessions.contains_key(id));
    let snapshot = Snapshot {
        now: terms.now,
        installation,
        public_url: terms.public_url,
        place: terms.recordings_place,
        sessions,
        egresses,
        checkpoints,
        rooms,
        erased,
        numbers,
        endpoints: &endpoints,
    };
    let mut plan = plan(snapshot, events);
    let mut reserved = Reserved { desk: terms.desk, places: Vec::new(), is_committing: false };
    let Some(owed) = write(tx.as_mut(), &mut plan, &terms, &mut reserved).await? else {
        return Ok(Once::Raced);
    };
    if is_news(tx.as_mut(), &candidates, erased).await? {
        return Ok(Once::Raced);
    }
    // Last, as others lock failures: they lock sessions first.
    match ending {
        None => keep_failures(tx.as_mut(), &mut plan, events, terms.now).await?,
        Some(ending) if failures::end(tx.as_mut(), ending, &plan.outcomes[0]).await? => {}
        Some(_) => return Ok(Once::Lost),
    }
    reserved.is_committing = true;
    let owed = before_commit(owed, &terms);
    tx.commit().await?;
    crash::point(Point::AfterCommit);
    reserved.places.clear();
    let mut keys = EgressKeys::default();
    keys.ids.extend(plan.unjoined_egresses);
    let is_joinable = |session: &&Session| plan.joinable_sessions.contains(&session.session_id);
    plan.sessions.iter().filter(is_joinable).for_each(|session| keys.add_those_of(session));
    let unjoined = Unjoined { keys, is_everything: false };
    Ok(Once::Taken(Taken { outcomes: plan.outcomes, owed, unjoined }))
}

/// Whether more was erased than is known. Asked after writing: whoever erased a session that was not
/// there when it was looked for has committed by then.
async fn is_news(
    tx: &mut dyn Transaction,
    candidates: &Erased,
    known: &mut Erased,
) -> Result<bool, StoreError> {
    if candidates.is_empty() {
        return Ok(false);
    }
    let found = tx.erased(candidates).await?;
    let is_news = found != *known;
    *known = found;
    Ok(is_news)
}

/// What a batch may touch, as it is.
#[derive(Default)]
struct Loaded {
    sessions: BTreeMap<Uuid, Session>,
    egresses: BTreeMap<String, JoinedEgress>,
    checkpoints: BTreeMap<Uuid, Session>,
    rooms: BTreeMap<Digest, FinishedRoom>,
}

/// Reads everything the batch may touch: its sessions and recordings, what may belong to them,
/// and everything else of the sessions found. Begins with the sessions by `known`, waiting for those
/// that are locked, and adds to it by what else it looked. If one of those is locked, it does as
/// `later` says: whoever fails begins the next try with all of them.
async fn load(
    tx: &mut dyn Transaction,
    events: &[Prepared],
    known: &mut SessionKeys,
    later: WhenLocked,
) -> Result<Loaded, StoreError> {
    let mut loaded = Loaded::default();
    let mut session_keys = known.clone();
    let mut egress_keys = egress_keys(events);
    load_silent(tx, events, &mut loaded, &mut session_keys, &mut egress_keys).await?;
    let Loaded { sessions, egresses, .. } = &mut loaded;
    let (mut asked, mut locked) = (BTreeSet::new(), WhenLocked::Wait);
    while !session_keys.is_empty() || !egress_keys.is_empty() {
        if !session_keys.is_empty() {
            if locked == WhenLocked::Fail {
                known.extend(session_keys.clone());
            }
            for session in tx.sessions(&session_keys, locked).await? {
                egress_keys.ids.extend(session.recording_egress_id.clone());
                egress_keys.sessions.insert(session.session_id);
                sessions.insert(session.session_id, session);
            }
            asked.append(&mut session_keys.ids);
            (session_keys, locked) = (SessionKeys::default(), later);
        }
        if !egress_keys.is_empty() {
            for row in tx.egresses(&egress_keys).await? {
                // A session that was not there a moment ago, and that the recording is joined to:
                // another worker made it between the two questions.
                let joined = row.session_id.filter(|id| !sessions.contains_key(id));
                let named = row.named_session_id.filter(|id| !asked.contains(id));
                if !egresses.contains_key(&row.egress.egress_id) {
                    session_keys.ids.extend(joined.into_iter().chain(named));
                    session_keys.rooms.extend(room_span(&row));
                }
                egresses.insert(row.egress.egress_id.clone(), row);
            }
            egress_keys = EgressKeys::default();
        }
    }
    Ok(loaded)
}

/// Reads what nobody but the events needs that tell of closed rooms and silent calls: the rooms, and
/// the calls' checkpoints. What else may have to do with them is added to the keys.
async fn load_silent(
    tx: &mut dyn Transaction,
    events: &[Prepared],
    loaded: &mut Loaded,
    session_keys: &mut SessionKeys,
    egress_keys: &mut EgressKeys,
) -> Result<(), StoreError> {
    let mut room_keys = RoomKeys::default();
    for event in events {
        match &event.change {
            Ok(Change::Room(room)) => drop(room_keys.digests.insert(room.digest)),
            Ok(Change::Silent { session_id, .. }) => drop(room_keys.sessions.insert(*session_id)),
            _ => {}
        }
    }
    if room_keys.digests.is_empty() && room_keys.sessions.is_empty() {
        return Ok(());
    }
    if !room_keys.sessions.is_empty() {
        let ids = room_keys.sessions.clone();
        let keys = SessionKeys { ids, ..SessionKeys::default() };
        for session in tx.sessions(&keys, WhenLocked::Wait).await? {
            for keys in [&mut room_keys.room_ids, &mut egress_keys.room_ids] {
                keys.extend(session.room_id.clone());
            }
            for keys in [&mut room_keys.room_names, &mut egress_keys.room_names] {
                keys.extend(session.room_name.clone());
            }
        }
        for checkpoint in tx.checkpoints(&room_keys.sessions).await? {
            egress_keys.ids.extend(checkpoint.recording_egress_id.clone());
            loaded.checkpoints.insert(checkpoint.session_id, checkpoint);
        }
    }
    for room in tx.rooms(&room_keys).await? {
        if !room_keys.sessions.is_empty() {
            session_keys.rooms.insert(RoomSpan::of_moment(&room));
        }
        loaded.rooms.insert(room.digest, room);
    }
    Ok(())
}

/// Writes what the plan says, and reserves room for its deliveries; `None` if another worker
/// was first.
async fn write(
    tx: &mut dyn Transaction,
    plan: &mut Plan,
    terms: &Terms<'_>,
    reserved: &mut Reserved<'_>,
) -> Result<Option<Vec<Owed>>, StoreError> {
    let wanted = u64::try_from(plan.sessions.len()).unwrap_or(u64::MAX);
    if wanted > 0 && tx.put_sessions(&plan.sessions).await? < wanted {
        return Ok(None);
    }
    let wanted = u64::try_from(plan.egresses.len()).unwrap_or(u64::MAX);
    if wanted > 0 && tx.put_egresses(&plan.egresses, terms.now).await? < wanted {
        return Ok(None);
    }
    write_silent(tx, plan).await?;
    let mut owed = Vec::new();
    if !plan.messages.is_empty() {
        let messages = messages(plan, terms.now);
        let new = tx.put_messages(&messages, terms.now).await?;
        let is_new = |id: &MessageId| new.contains(id);
        let deliveries = deliveries(plan, &messages, is_new, terms.now, reserved, &mut owed);
        if !deliveries.is_empty() {
            tx.put_deliveries(&deliveries, terms.now).await?;
        }
    }
    Ok(Some(owed))
}

/// Writes what few batches have: checkpoints and closed rooms.
async fn write_silent(tx: &mut dyn Transaction, plan: &Plan) -> Result<(), StoreError> {
    if !plan.checkpoints.is_empty() {
        tx.put_checkpoints(&plan.checkpoints).await?;
    }
    if !plan.spent_checkpoints.is_empty() {
        tx.drop_checkpoints(&plan.spent_checkpoints).await?;
    }
    if !plan.rooms.is_empty() {
        tx.put_rooms(&plan.rooms).await?;
    }
    Ok(())
}

fn messages(plan: &Plan, now: DateTime<Utc>) -> Vec<MessageToKeep<'_>> {
    plan.messages.iter().map(|message| MessageToKeep::new(message, now)).collect()
}

/// The deliveries of messages that are really new, and those of them that this process will send.
fn deliveries(
    plan: &Plan,
    messages: &[MessageToKeep<'_>],
    is_new: impl Fn(&MessageId) -> bool,
    now: DateTime<Utc>,
    reserved: &mut Reserved<'_>,
    owed: &mut Vec<Owed>,
) -> Vec<DeliveryToKeep> {
    let mut kept = Vec::with_capacity(plan.deliveries.len());
    for delivery in &plan.deliveries {
        let MessageToKeep { row_id, message } = messages[delivery.message];
        if !is_new(&message.message_id) {
            continue;
        }
        let (delivery_id, endpoint_id) = (new_id(now), delivery.endpoint_id);
        // What is limited waits in the table, where one limit counts for all processes.
        let is_for_the_table = delivery.is_cancelled || delivery.is_limited;
        let process_id =
            if is_for_the_table { None } else { reserved.reserve(endpoint_id, delivery.owner) };
        let body = match delivery.payload {
            PayloadKind::Thin => message.thin.clone(),
            PayloadKind::Full => message.full.clone(),
        };
        if let (Some(process_id), Some(body)) = (process_id, body) {
            owed.push(Owed {
                delivery_id,
                process_id,
                message_id: message.message_id,
                endpoint_id,
                owner: delivery.owner,
                event_type: message.event_type,
                body,
                attempts: 0,
                redelivered_after: None,
                told_at: now,
                trace: message.trace,
            });
        }
        kept.push(DeliveryToKeep {
            delivery_id,
            message_row: row_id,
            endpoint_id,
            payload: delivery.payload,
            is_cancelled: delivery.is_cancelled,
            process_id,
            is_redelivery: false,
        });
    }
    kept
}

async fn keep_failures(
    tx: &mut dyn Transaction,
    plan: &mut Plan,
    events: &[Prepared],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    for (position, rejection) in &plan.failures {
        let event = &events[*position];
        let named = match session_of(event) {
            Some(session) => Named::new(&session.tenant_id, &session.character_slug),
            None => Named::in_event(&event.raw),
        };
        let failure = FailureToKeep {
            failure_id: event.failure_id,
            rejection,
            source: &event.source,
            headers: event.headers.as_deref(),
            tenant_id: named.tenant_id.as_deref(),
            character_slug: named.character_slug.as_deref(),
            raw: &event.raw,
            raw_sha256: Sha256::digest(&event.raw).into(),
            now,
        };
        let kept_as = tx.put_failure(&failure).await?;
        if let Outcome::Failed { failure_id, .. } = &mut plan.outcomes[*position] {
            *failure_id = kept_as;
        }
    }
    Ok(())
}

/// Room at the desk, given back unless the transaction commits.
struct Reserved<'a> {
    desk: &'a dyn HandOff,
    /// Which endpoints for, and under which ids.
    places: Vec<(Uuid, Uuid)>,
    is_committing: bool,
}

impl Reserved<'_> {
    fn reserve(&mut self, endpoint_id: Uuid, owner: Option<i64>) -> Option<Uuid> {
        let process_id = self.desk.reserve(endpoint_id, owner)?;
        self.places.push((endpoint_id, process_id));
        Some(process_id)
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        for (endpoint_id, process_id) in self.places.drain(..) {
            if self.is_committing {
                self.desk.disown(process_id);
            }
            self.desk.cancel(endpoint_id);
        }
    }
}

/// The other sessions that a recording may belong to, if only its room tells.
fn room_span(row: &JoinedEgress) -> Option<RoomSpan> {
    let is_certain = row.joined_by.is_some_and(|clue| clue > JoinedBy::RoomId);
    if is_certain { None } else { RoomSpan::of(&row.egress) }
}

/// The sessions that the events are about, each once.
fn session_ids(events: &[Prepared]) -> impl Iterator<Item = Uuid> {
    let ids: BTreeSet<Uuid> = events.iter().filter_map(session_of).map(|s| s.session_id).collect();
    ids.into_iter()
}

fn session_of(event: &Prepared) -> Option<&Session> {
    match &event.change {
        Ok(
            Change::Started(session)
            | Change::Checkpoint { so_far: session, .. }
            | Change::Ended(session)
            | Change::Superseding(session),
        ) => Some(session),
        Ok(
            Change::Recording { .. }
            | Change::Swept { .. }
            | Change::Room(_)
            | Change::Silent { .. },
        )
        | Err(_) => None,
    }
}

fn session_keys(events: &[Prepared]) -> SessionKeys {
    let mut keys = SessionKeys { ids: session_ids(events).collect(), ..SessionKeys::default() };
    for event in events {
        match &event.change {
            Ok(Change::Recording { session_id, egress }) => {
                keys.ids.extend(*session_id);
                keys.egress_ids.insert(egress.egress_id.clone());
                keys.rooms.extend(RoomSpan::of(egress));
            }
            Ok(Change::Swept { session_id, .. } | Change::Silent { session_id, .. }) => {
                keys.ids.insert(*session_id);
            }
            Ok(
                Change::Started(_)
                | Change::Checkpoint { .. }
                | Change::Ended(_)
                | Change::Superseding(_)
                | Change::Room(_),
            )
            | Err(_) => {}
        }
    }
    keys
}

fn egress_keys(events: &[Prepared]) -> EgressKeys {
    let mut keys = EgressKeys::default();
    for event in events {
        match &event.change {
            Ok(
                Change::Started(session)
                | Change::Checkpoint { so_far: session, .. }
                | Change::Ended(session)
                | Change::Superseding(session),
            ) => keys.add_those_of(session),
            Ok(Change::Recording { egress, .. }) => {
                keys.ids.insert(egress.egress_id.clone());
            }
            Ok(Change::Swept { .. } | Change::Room(_) | Change::Silent { .. }) | Err(_) => {}
        }
    }
    keys
}

fn owners(events: &[Prepared], sessions: &BTreeMap<Uuid, Session>) -> Vec<i64> {
    let owners: BTreeSet<i64> = events
        .iter()
        .filter_map(session_of)
        .chain(sessions.values())
        .map(|session| session.character_owner)
        .collect();
    owners.into_iter().collect()
}

/// Recordings to be joined again, as events that say what is already known.
pub(super) fn as_events(egresses: Vec<JoinedEgress>, now: DateTime<Utc>) -> Vec<Prepared> {
    egresses
        .into_iter()
        .map(|row| Prepared {
            change: Ok(Change::Recording {
                session_id: row.named_session_id,
                egress: Box::new(row.egress),
            }),
            raw: bytes::Bytes::new(),
            source: "store".into(),
            headers: None,
            trace: None,
            event_id: None,
            event_type: None,
            failure_id: new_id(now),
        })
        .collect()
}
