//! Taking a batch of calls of which nothing is known: one statement asks whether that is so, the next
//! writes all of them and commits. A transaction makes ten round trips, for all of which most calls
//! would wait for.
//!
//! Nothing is locked in between. Who is first to make one of the sessions wins, and whoever is second is
//! refused and takes the batch in a transaction. What else may have been written in between concerns
//! them no more than what is written beside a transaction: recordings are joined after the commit.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Reserved, before_commit, deliveries, egress_keys, messages, owners, session_of};
use crate::crash::{self, Point};
use crate::finalize::{Change, Erased, Plan, Prepared, Snapshot, plan};
use crate::store::transaction::{DeliveryToKeep, EgressKeys, MessageToKeep};
use crate::store::{Batch, Endpoint, StoreError, Taken, Unjoined};

/// A store that takes new calls at once.
#[async_trait]
pub(in crate::store) trait TakesNew {
    /// What it takes to plan them. `None`: something is known of one.
    async fn look(&self, keys: &EgressKeys, owners: &[i64]) -> Result<Option<Blank>, StoreError>;

    /// Writes sessions, messages and deliveries, and commits. `false`: one of them is there by now, or
    /// was erased, and nothing is written.
    async fn put_new(
        &self,
        plan: &Plan,
        messages: &[MessageToKeep<'_>],
        deliveries: &[DeliveryToKeep],
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError>;
}

/// What must be known to make sessions.
pub(in crate::store) struct Blank {
    /// A number for each of them.
    pub(in crate::store) numbers: Vec<i64>,
    /// The endpoints of the owners, and those of all owners.
    pub(in crate::store) endpoints: Vec<Endpoint>,
}

/// Takes a batch, if it is of new calls only. `None`: it is not, and nothing is written.
pub(in crate::store) async fn take_new(
    store: &(impl TakesNew + Sync),
    installation: Uuid,
    batch: Batch<'_>,
) -> Result<Option<Taken>, StoreError> {
    let Batch { terms, events } = batch;
    if !may_be_new(events) {
        return Ok(None);
    }
    let (nothing, keys) = (BTreeMap::new(), egress_keys(events));
    let Some(blank) = store.look(&keys, &owners(events, &nothing)).await? else {
        return Ok(None);
    };
    let snapshot = Snapshot {
        now: terms.now,
        installation,
        public_url: terms.public_url,
        place: terms.recordings_place,
        sessions: nothing,
        egresses: BTreeMap::new(),
        checkpoints: BTreeMap::new(),
        rooms: BTreeMap::new(),
        erased: &Erased::default(),
        numbers: blank.numbers,
        endpoints: &blank.endpoints,
    };
    let plan = plan(snapshot, events);
    let mut reserved = Reserved { desk: terms.desk, places: Vec::new(), is_committing: false };
    let mut owed = Vec::new();
    let messages = messages(&plan, terms.now);
    let deliveries = deliveries(&plan, &messages, |_| true, terms.now, &mut reserved, &mut owed);
    let owed = before_commit(owed, &terms);
    reserved.is_committing = true;
    let put = store.put_new(&plan, &messages, &deliveries, terms.now).await;
    // A refusal is an answer: nothing was committed.
    reserved.is_committing = !matches!(put, Ok(false) | Err(StoreError::Rejected(_)));
    if !put? {
        return Ok(None);
    }
    crash::point(Point::AfterCommit);
    reserved.places.clear();
    let unjoined = Unjoined { keys, is_everything: false };
    Ok(Some(Taken { outcomes: plan.outcomes, owed, unjoined }))
}

/// Each of the events is the start or the end of another call.
fn may_be_new(events: &[Prepared]) -> bool {
    let is_whole =
        |event: &Prepared| matches!(event.change, Ok(Change::Started(_) | Change::Ended(_)));
    let mut ids: Vec<Uuid> =
        events.iter().filter_map(session_of).map(|session| session.session_id).collect();
    ids.sort_unstable();
    events.iter().all(is_whole) && ids.windows(2).all(|pair| pair[0] != pair[1])
}
