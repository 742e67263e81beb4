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
use crate::finalize::{Prepared, Repriced, Session, Silence, Totals};
use crate::store::{
    ApiKey, ApiKeyChange, AttemptResult, AwaitedFile, Backlog, Batch, Beginning, Bills, Cursor,
    Delivery, DeliveryFilter, DeliveryState, DeliveryStory, DueEndpoint, Ending, Endpoint,
    EndpointHealth, Expired, Failure, FailureFilter, FinalizedCall, HistoryFilter, IntakeState,
    Next, OpenFailures, Owed, Progress, PrunePosition, Pruned, Recorded, Redelivery,
    RedeliveryRange, Refusal, Replay, SilentCall, Slot, Store, StoreError, Taken, Terms, Tried,
    Unjoined, Verdict, Walked, Workload,
};
use crate::webhook::MessageId;

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

    async fn due_endpoints(&self, now: DateTime<Utc>) -> Result<Vec<DueEndpoint>, StoreError> {
        let content = self.open()?;
        let due = content.rows.values().filter(|row| row.is_due(now));
        let mut endpoints: Vec<_> = due.map(|row| row.owed.endpoint_id).collect();
        endpoints.sort();
        endpoints.dedup();
        let due = endpoints.into_iter();
        Ok(due
            .map(|endpoint_id| DueEndpoint {
                endpoint_id,
                owner: None,
                rate_limit_per_minute: None,
            })
            .collect())
    }

    async fn claim(
        &self,
        process: Uuid,
        now: DateTime<Utc>,
        slots: &[Slot],
    ) -> Result<Vec<Owed>, StoreError> {
        let mut content = self.open()?;
        let mut claimed = Vec::new();
        for Slot { endpoint_id, free, free_for_retries, .. } in slots {
            let rows = content.rows.values_mut();
            let mut due: Vec<_> = rows
                .filter(|row| row.owed.endpoint_id == *endpoint_id && row.is_due(now))
                .collect();
            due.sort_by_key(|row| (row.owed.attempts > 0, row.next_attempt_at));
            let mut retries = *free_for_retries;
            due.retain(|row| {
                let is_retry = row.owed.is_retry();
                let has_place = !is_retry || retries > 0;
                retries -= u32::from(is_retry && has_place);
                has_place
            });
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
        results: &[AttemptResult],
        now: DateTime<Utc>,
    ) -> Result<Recorded, StoreError> {
        let mut content = self.open_to_take()?;
        if results.iter().any(|result| result.attempt.response_body == "poison") {
            return Err(StoreError::Rejected(anyhow!("poison")));
        }
        let mut recorded = Recorded::default();
        for result in results {
            let Content { rows, endpoints, .. } = &mut *content;
            let row = rows.get_mut(&result.delivery_id);
            let Some(row) = row.filter(|row| row.process == Some(process)) else { continue };
            row.process = None;
            row.owed.attempts = result.attempt.number;
            row.state = match result.next {
                Next::Done => DeliveryState::Delivered,
                Next::RetryAt(at) => {
                    row.next_attempt_at = at;
                    DeliveryState::Pending
                }
                Next::Exhausted => DeliveryState::Exhausted,
                Next::Cancelled(_) => DeliveryState::Cancelled,
            };
            let endpoint = endpoints.iter_mut().find(|e| e.endpoint_id == result.endpoint_id);
            if let Some(endpoint) = endpoint.filter(|_| result.verdict == Verdict::Gone) {
                endpoint.disabled = Some((now, "gone".to_owned()));
                recorded.disabled.push((endpoint.endpoint_id, "gone"));
            }
            recorded.deliveries.push(result.delivery_id);
            content.results.push(result.clone());
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

    async fn workload(&self, _now: DateTime<Utc>) -> Result<Workload, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn endpoint_health(
        &self,
        _now: DateTime<Utc>,
    ) -> Result<Vec<EndpointHealth>, StoreError> {
        self.open().map(|_| Vec::new())
    }

    async fn cancel_undeliverable(&self, _now: DateTime<Utc>) -> Result<u64, StoreError> {
        self.open().map(|_| 0)
    }

    async fn advance_redelivery(
        &self,
        _public_url: &str,
        _now: DateTime<Utc>,
    ) -> Result<Option<Redelivery>, StoreError> {
        self.open().map(|_| None)
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

    async fn overdue_recordings(
        &self,
        _finalized_by: DateTime<Utc>,
        _limit: u32,
    ) -> Result<Vec<Uuid>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn awaited_files(
        &self,
        _now: DateTime<Utc>,
        _leased_until: DateTime<Utc>,
        _limit: u32,
    ) -> Result<Vec<AwaitedFile>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn look_again(&self, _looks: &[(Uuid, DateTime<Utc>)]) -> Result<(), StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn expire_recordings(
        &self,
        _first_seen_by: DateTime<Utc>,
        _now: DateTime<Utc>,
        _limit: u32,
    ) -> Result<Expired, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn session(&self, _session_id: Uuid) -> Result<Option<Session>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn history(
        &self,
        _filter: &HistoryFilter,
        _limit: u32,
        _offset: u64,
    ) -> Result<Vec<Session>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn history_totals(&self, _filter: &HistoryFilter) -> Result<Totals, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn finalized_after(
        &self,
        _filter: &HistoryFilter,
        _cursor: Cursor,
        _limit: u32,
    ) -> Result<Walked, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn bills(
        &self,
        _since: DateTime<Utc>,
        _from: Uuid,
        _limit: u32,
    ) -> Result<Bills, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn reprice(&self, _changes: &[Repriced]) -> Result<Vec<Uuid>, StoreError> {
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

    async fn discard_failure(
        &self,
        _failure_id: Uuid,
        _by: &str,
        _now: DateTime<Utc>,
    ) -> Result<Result<(), Refusal>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn begin_replay(
        &self,
        _beginning: Beginning,
    ) -> Result<Result<(Failure, Bytes), Refusal>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn end_replay(&self, _ending: Ending<'_>) -> Result<Option<Taken>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn abandon_replay(&self, _failure_id: Uuid, _process: Uuid) -> Result<(), StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn leave_replays(&self, _process: Uuid) -> Result<(), StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn try_out(&self, _terms: Terms<'_>, _event: &Prepared) -> Result<Tried, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn open_failures(
        &self,
        _which: &OpenFailures,
        _after: Uuid,
        _limit: u32,
    ) -> Result<Vec<Uuid>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn count_open_failures(&self, _which: &OpenFailures) -> Result<Option<i64>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn add_replay(&self, _job: &Replay) -> Result<(), StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn replays(&self) -> Result<Vec<Replay>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn replay(&self, _replay_id: Uuid) -> Result<Option<Replay>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn cancel_replay(
        &self,
        _replay_id: Uuid,
        _now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn take_replay(
        &self,
        _process: Uuid,
        _now: DateTime<Utc>,
    ) -> Result<Option<Replay>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn count_replay(
        &self,
        _replay_id: Uuid,
        _process: Uuid,
        _steps: &Progress,
    ) -> Result<bool, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn finish_replay(
        &self,
        _replay_id: Uuid,
        _process: Uuid,
        _now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn give_back_replay(&self, _replay_id: Uuid, _process: Uuid) -> Result<(), StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn expire_failures(
        &self,
        _last_seen_by: DateTime<Utc>,
        _now: DateTime<Utc>,
        _limit: u32,
    ) -> Result<u64, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn prune(
        &self,
        _before: DateTime<Utc>,
        _after: &PrunePosition,
        _limit: u32,
        _is_dry_run: bool,
    ) -> Result<(Pruned, Option<PrunePosition>), StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn add_api_key(&self, _key: &ApiKey) -> Result<(), StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn api_key(&self, _hash: &[u8; 32]) -> Result<Option<ApiKey>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn api_keys(&self, _user: Option<i64>) -> Result<Vec<ApiKey>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn change_api_key(
        &self,
        _key_id: Uuid,
        _user: Option<i64>,
        _change: &ApiKeyChange,
    ) -> Result<Option<ApiKey>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn delete_api_key(
        &self,
        _key_id: Uuid,
        _user: Option<i64>,
    ) -> Result<Option<ApiKey>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn note_api_key_uses(&self, _uses: &[(Uuid, DateTime<Utc>)]) -> Result<(), StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn change_endpoint(&self, _endpoint: &Endpoint) -> Result<bool, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn disable_endpoint(
        &self,
        _endpoint_id: Uuid,
        _reason: &str,
        _now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn enable_endpoint(&self, _endpoint_id: Uuid) -> Result<bool, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn delete_endpoint(
        &self,
        _endpoint_id: Uuid,
        _now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn deliveries(&self, _filter: &DeliveryFilter) -> Result<Vec<Delivery>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn deliveries_of_message(
        &self,
        _message_id: MessageId,
    ) -> Result<Vec<Delivery>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn delivery(&self, _delivery_id: Uuid) -> Result<Option<DeliveryStory>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn redeliver(
        &self,
        _deliveries: &[Uuid],
        _now: DateTime<Utc>,
    ) -> Result<Vec<Uuid>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn count_range(&self, _range: &RedeliveryRange) -> Result<Option<i64>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn add_redelivery(&self, _job: &Redelivery) -> Result<bool, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn redeliveries(
        &self,
        _endpoint_id: Option<Uuid>,
    ) -> Result<Vec<Redelivery>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn redelivery(&self, _redelivery_id: Uuid) -> Result<Option<Redelivery>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn cancel_redelivery(
        &self,
        _redelivery_id: Uuid,
        _now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn silent_sessions(
        &self,
        _silence: Silence,
        _after: (DateTime<Utc>, Uuid),
        _limit: u32,
    ) -> Result<Vec<SilentCall>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn forget_rooms(&self, _heard_by: DateTime<Utc>, _limit: u32) -> Result<u64, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn note_intake(
        &self,
        _state: &IntakeState,
        _seen_by: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn intakes(&self) -> Result<Vec<IntakeState>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn finalized_lately(
        &self,
        _owner: Option<i64>,
        _since: DateTime<Utc>,
    ) -> Result<Vec<FinalizedCall>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn backlog(&self, _owner: Option<i64>) -> Result<Backlog, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn erase(
        &self,
        _session_id: Uuid,
        _recordings_place: &str,
        _now: DateTime<Utc>,
    ) -> Result<Option<Vec<String>>, StoreError> {
        unreachable!("the courier does not ask for this")
    }

    async fn keep_files(&self, _session_id: Uuid, _files: &[String]) -> Result<(), StoreError> {
        unreachable!("the courier does not ask for this")
    }
}
