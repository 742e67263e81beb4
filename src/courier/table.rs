//! As much of a store as the courier needs, in memory, for tests; it can go away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use anyhow::anyhow;
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::clock::SystemClock;
use crate::finalize::Session;
use crate::store::{
    ApiKey, AttemptResult, Batch, Delivery, DeliveryState, Endpoint, Failure, FailureFilter, Next,
    Owed, Store, StoreError, Taken, Terms, Unjoined,
};

#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) owed: Owed,
    pub(super) process: Option<Uuid>,
    pub(super) state: DeliveryState,
    pub(super) next_attempt_at: DateTime<Utc>,
}

impl Row {
    fn is_due(&self, now: DateTime<Utc>) -> bool {
        self.state == DeliveryState::Pending
            && self.process.is_none()
            && self.next_attempt_at <= now
    }
}

#[derive(Default)]
pub(super) struct Content {
    pub(super) rows: HashMap<Uuid, Row>,
    pub(super) processes: HashMap<Uuid, DateTime<Utc>>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) results: Vec<AttemptResult>,
    /// The most that one claim has taken of one endpoint.
    pub(super) most_claimed: usize,
}

#[derive(Default)]
pub(super) struct Table {
    content: Mutex<Content>,
    pub(super) is_away: AtomicBool,
    /// Results and deliveries that are given back are refused, as if it were away.
    pub(super) takes_nothing: AtomicBool,
    /// The next claim happens, and its answer is lost.
    pub(super) loses_claims: AtomicBool,
    /// Calls while it was away.
    pub(super) refused: AtomicUsize,
}

impl Table {
    pub(super) fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    fn open(&self) -> Result<MutexGuard<'_, Content>, StoreError> {
        if self.is_away.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::Transient(anyhow!("away")));
        }
        Ok(self.lock())
    }
}

impl Table {
    fn open_to_take(&self) -> Result<MutexGuard<'_, Content>, StoreError> {
        if self.takes_nothing.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::Transient(anyhow!("away")));
        }
        self.open()
    }
}

#[async_trait]
impl Store for Table {
    async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        self.open().map(|_| SystemClock::machine_now())
    }

    async fn endpoints(&self, _owner: Option<i64>) -> Result<Vec<Endpoint>, StoreError> {
        Ok(self.open()?.endpoints.clone())
    }

    async fn enter(
        &self,
        process: Uuid,
        _now: DateTime<Utc>,
        alive_until: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        self.open()?.processes.insert(process, alive_until);
        Ok(())
    }

    async fn keep_alive(
        &self,
        process: Uuid,
        now: DateTime<Utc>,
        alive_until: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let mut content = self.open()?;
        let until = content.processes.get_mut(&process).filter(|until| **until > now);
        Ok(until.map(|until| *until = alive_until).is_some())
    }

    async fn leave(&self, process: Uuid) -> Result<(), StoreError> {
        let mut content = self.open()?;
        content.processes.remove(&process);
        let held = content.rows.values_mut().filter(|row| row.process == Some(process));
        held.for_each(|row| row.process = None);
        Ok(())
    }

    async fn rescue(&self, now: DateTime<Utc>) -> Result<u64, StoreError> {
        let mut content = self.open()?;
        content.processes.retain(|_, until| *until > now);
        let Content { rows, processes, .. } = &mut *content;
        let orphans = rows
            .values_mut()
            .filter(|row| row.process.is_some_and(|process| !processes.contains_key(&process)));
        Ok(orphans.map(|row| row.process = None).count() as u64)
    }

    async fn due_endpoints(&self, now: DateTime<Utc>) -> Result<Vec<Uuid>, StoreError> {
        let content = self.open()?;
        let due = content.rows.values().filter(|row| row.is_due(now));
        let mut endpoints: Vec<_> = due.map(|row| row.owed.endpoint_id).collect();
        endpoints.sort();
        endpoints.dedup();
        Ok(endpoints)
    }

    async fn claim(
        &self,
        process: Uuid,
        now: DateTime<Utc>,
        slots: &[(Uuid, u32)],
    ) -> Result<Vec<Owed>, StoreError> {
        let mut content = self.open()?;
        let mut claimed = Vec::new();
        for (endpoint_id, free) in slots {
            let rows = content.rows.values_mut();
            let mut due: Vec<_> = rows
                .filter(|row| row.owed.endpoint_id == *endpoint_id && row.is_due(now))
                .collect();
            due.sort_by_key(|row| (row.owed.attempts > 0, row.next_attempt_at));
            due.truncate(*free as usize);
            let count = due.len();
            for row in due {
                row.process = Some(process);
                claimed.push(Owed { process_id: process, ..row.owed.clone() });
            }
            content.most_claimed = content.most_claimed.max(count);
        }
        if self.loses_claims.swap(false, Ordering::SeqCst) {
            return Err(StoreError::Transient(anyhow!("the answer is lost")));
        }
        Ok(claimed)
    }

    async fn release(&self, process: Uuid, deliveries: &[Uuid]) -> Result<(), StoreError> {
        let mut content = self.open_to_take()?;
        for delivery_id in deliveries {
            let row = content.rows.get_mut(delivery_id);
            if let Some(row) = row.filter(|row| row.process == Some(process)) {
                row.process = None;
            }
        }
        Ok(())
    }

    async fn record(
        &self,
        process: Uuid,
        attempts: &[AttemptResult],
    ) -> Result<Vec<Uuid>, StoreError> {
        let mut content = self.open_to_take()?;
        if attempts.iter().any(|attempt| attempt.response_body == "poison") {
            return Err(StoreError::Rejected(anyhow!("poison")));
        }
        let mut recorded = Vec::new();
        for attempt in attempts {
            let row = content.rows.get_mut(&attempt.delivery_id);
            let Some(row) = row.filter(|row| row.process == Some(process)) else { continue };
            row.process = None;
            row.owed.attempts = attempt.number;
            row.state = match attempt.next {
                Next::Done => DeliveryState::Delivered,
                Next::RetryAt(at) => {
                    row.next_attempt_at = at;
                    DeliveryState::Pending
                }
                Next::Exhausted => DeliveryState::Exhausted,
                Next::Cancelled => DeliveryState::Cancelled,
            };
            recorded.push(attempt.delivery_id);
            content.results.push(attempt.clone());
        }
        Ok(recorded)
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        let content = self.open()?;
        let pending = content
            .rows
            .values()
            .filter(|row| row.state == DeliveryState::Pending && row.process.is_none());
        Ok(pending.map(|row| row.next_attempt_at).min())
    }

    async fn disable_endpoint(
        &self,
        endpoint_id: Uuid,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let mut content = self.open()?;
        let mut endpoints = content.endpoints.iter_mut();
        if let Some(endpoint) = endpoints.find(|endpoint| endpoint.endpoint_id == endpoint_id) {
            endpoint.disabled = Some((now, reason.to_owned()));
        }
        Ok(())
    }

    async fn installation(&self) -> Result<Uuid, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn take(&self, _batch: Batch<'_>) -> Result<Taken, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn join_recordings(
        &self,
        _terms: Terms<'_>,
        _which: &Unjoined,
    ) -> Result<Vec<Owed>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn session(&self, _session_id: Uuid) -> Result<Option<Session>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn add_endpoint(&self, _endpoint: &Endpoint) -> Result<(), StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn endpoint(&self, _endpoint_id: Uuid) -> Result<Option<Endpoint>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn deliveries_of(&self, _session_id: Uuid) -> Result<Vec<Delivery>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn delivery_counts(&self) -> Result<Vec<(DeliveryState, i64)>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn failures(&self, _filter: &FailureFilter) -> Result<Vec<Failure>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn failure(&self, _failure_id: Uuid) -> Result<Option<(Failure, Bytes)>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn add_api_key(&self, _key: &ApiKey) -> Result<(), StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn api_key(&self, _hash: &[u8; 32]) -> Result<Option<ApiKey>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        unreachable!("the courier does not ask for this")
    }
}
