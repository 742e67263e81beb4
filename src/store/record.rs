//! Recording what came of attempts: of their deliveries, and of their endpoints.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::transaction::{DeliveryToKeep, MessageToKeep, Transaction};
use super::{AttemptResult, Cause, Endpoint, Recorded, StoreError, Verdict};
use crate::clock::new_id;
use crate::finalize::NewMessage;
use crate::webhook::{EventType, Failing, MessageId, MessageKey, PayloadKind, disabled_payload};

/// Pending deliveries that are cancelled together with their endpoint; the sweep does the rest, a
/// few at a time: no transaction is as long as a backlog.
pub(super) const CANCELLED_AT_ONCE: u32 = 1000;

/// Why an endpoint is disabled: it said 410.
const GONE: &str = "gone";
/// It has only failed for too long.
const FAILING: &str = "failing";
/// Somebody wants it so.
pub const BY_HAND: &str = "by_hand";

/// What a batch of results says of one endpoint.
#[derive(Debug, Default)]
struct Said {
    /// Where the requests went.
    url: Arc<str>,
    /// When it failed, since it last worked.
    failed_at: Vec<DateTime<Utc>>,
    has_worked: bool,
    is_gone: bool,
    pause_until: Option<DateTime<Utc>>,
}

/// Records results, and what they say of their endpoints, in one transaction.
pub(super) async fn record(
    mut tx: Box<dyn Transaction + '_>,
    installation: Uuid,
    process: Uuid,
    results: &[AttemptResult],
    now: DateTime<Utc>,
) -> Result<Recorded, StoreError> {
    let mut recorded =
        Recorded { deliveries: tx.put_results(process, results).await?, ..Recorded::default() };
    let said = said(results, &recorded.deliveries);
    let working: Vec<Uuid> =
        said.iter().filter(|(_, said)| said.has_worked).map(|(id, _)| *id).collect();
    let failing = if working.is_empty() { working } else { tx.failing(&working).await? };
    // In the order of their ids, so that two processes do not wait for each other.
    for (endpoint_id, said) in said {
        if failing.contains(&endpoint_id) {
            tx.forget_failing(endpoint_id).await?;
        }
        if said.is_gone || !said.failed_at.is_empty() || said.pause_until.is_some() {
            judge(tx.as_mut(), installation, endpoint_id, &said, now, &mut recorded).await?;
        }
    }
    tx.commit().await?;
    Ok(recorded)
}

fn said(results: &[AttemptResult], recorded: &[Uuid]) -> BTreeMap<Uuid, Said> {
    let mut all: BTreeMap<Uuid, Said> = BTreeMap::new();
    let recorded: HashSet<&Uuid> = recorded.iter().collect();
    for result in results.iter().filter(|result| recorded.contains(&result.delivery_id)) {
        let said = all.entry(result.endpoint_id).or_default();
        said.url = Arc::clone(&result.url);
        said.pause_until = said.pause_until.max(result.pause_until);
        match result.verdict {
            Verdict::Works => {
                said.has_worked = true;
                said.failed_at.clear();
            }
            Verdict::Fails => said.failed_at.push(result.attempt.finished_at()),
            Verdict::Gone => said.is_gone = true,
            Verdict::Nothing => {}
        }
    }
    all
}

async fn judge(
    tx: &mut dyn Transaction,
    installation: Uuid,
    endpoint_id: Uuid,
    said: &Said,
    now: DateTime<Utc>,
    recorded: &mut Recorded,
) -> Result<(), StoreError> {
    // What another URL has said is not held against the present one.
    let endpoint = tx.endpoint(endpoint_id).await?;
    if endpoint.is_none_or(|endpoint| endpoint.url != *said.url) {
        return Ok(());
    }
    let mut health = tx.health(endpoint_id).await?;
    let before = health.failing.as_ref().map_or(0, Failing::percent);
    let failed = said.failed_at.iter();
    health.failing = failed.fold(health.failing, |failing, at| Some(Failing::after(failing, *at)));
    health.paused_until = health.paused_until.max(said.pause_until);
    tx.put_health(endpoint_id, &health).await?;
    let is_failing = health.failing.is_some_and(|failing| failing.percent() >= 100);
    let reason = match (said.is_gone, is_failing) {
        (true, _) => Some(GONE),
        (false, true) => Some(FAILING),
        (false, false) => None,
    };
    if let Some(reason) = reason {
        if disable(tx, installation, endpoint_id, reason, health.failing, now).await? {
            recorded.disabled.push((endpoint_id, reason));
        }
    } else if let Some(failing) = health.failing
        && let Some(percent) = failing.warning(before)
    {
        recorded.warned.push((endpoint_id, failing, percent));
    }
    Ok(())
}

/// Disables an endpoint, cancels what it is owed, and tells the other endpoints of its owner; false
/// if it was disabled already.
pub(super) async fn disable(
    tx: &mut dyn Transaction,
    installation: Uuid,
    endpoint_id: Uuid,
    reason: &str,
    failing: Option<Failing>,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let Some(endpoint) = tx.disable(endpoint_id, reason, now).await? else { return Ok(false) };
    let cause = Cause::EndpointDisabled;
    tx.cancel_pending(endpoint_id, cause, now, CANCELLED_AT_ONCE).await?;
    tell_disabled(tx, installation, &endpoint, reason, failing, now).await?;
    Ok(true)
}

async fn tell_disabled(
    tx: &mut dyn Transaction,
    installation: Uuid,
    endpoint: &Endpoint,
    reason: &str,
    failing: Option<Failing>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let owners: Vec<i64> = endpoint.owner.into_iter().collect();
    let others = tx.endpoints(&owners).await?;
    let key = MessageKey::Disabled { endpoint_id: endpoint.endpoint_id, at: now };
    let message_id = MessageId::new(installation, &key);
    let message = NewMessage {
        message_id,
        event_type: EventType::EndpointDisabled,
        session_id: None,
        session_number: None,
        egress_id: None,
        // There is no more to say to those who want everything.
        thin: Some(disabled_payload(endpoint, reason, failing.as_ref(), now)),
        full: None,
        trace: None,
    };
    let message = MessageToKeep::new(&message, now);
    let message_row = message.row_id;
    tx.put_messages(&[message], now).await?;
    let told = others.iter().filter(|other| other.hears_of_disabled(endpoint));
    let deliveries: Vec<_> = told
        .map(|other| DeliveryToKeep {
            delivery_id: new_id(now),
            message_row,
            endpoint_id: other.endpoint_id,
            payload: PayloadKind::Thin,
            is_cancelled: other.disabled.is_some(),
            process_id: None,
            is_redelivery: false,
        })
        .collect();
    if !deliveries.is_empty() {
        tx.put_deliveries(&deliveries, now).await?;
    }
    Ok(())
}
