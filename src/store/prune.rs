//! Forgetting old deliveries, message by message: a message's deliveries all go at once, so that none of
//! its endpoints looks as if it had never been told. The message stays without its bytes: its id says
//! that it was told, whatever comes later.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::StoreError;
use super::transaction::Transaction;

/// Behind which message pruning goes on: when it was told, and its id.
pub type PrunePosition = (DateTime<Utc>, Vec<u8>);

/// What pruning came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Messages that lost their bytes.
    pub messages: u64,
    /// Deliveries that are gone.
    pub deliveries: u64,
    /// Attempts that are gone.
    pub attempts: u64,
}

/// A message that may be forgotten: its position, and what its deliveries know it by.
pub(super) type OldMessage = (DateTime<Utc>, Vec<u8>, Uuid);

/// A delivery of a message that is looked at.
pub(super) struct OldDelivery {
    pub(super) delivery_id: Uuid,
    pub(super) message_row: Uuid,
    /// It ended before the time.
    pub(super) is_over: bool,
}

/// Forgets, of the next few messages that were told before then, those whose deliveries had all ended
/// by then; and where to go on, unless those were the last. The caller commits, or does not.
pub(super) async fn step(
    tx: &mut dyn Transaction,
    before: DateTime<Utc>,
    after: &PrunePosition,
    limit: u32,
) -> Result<(Pruned, Option<PrunePosition>), StoreError> {
    let mut page = tx.old_messages(before, after, limit).await?;
    let mut messages: HashSet<Uuid> = page.iter().map(|(_, _, row_id)| *row_id).collect();
    let next = page.pop().filter(|_| messages.len() >= limit as usize);
    let deliveries = tx.old_deliveries(&of(&messages), before).await?;
    for delivery in deliveries.iter().filter(|delivery| !delivery.is_over) {
        messages.remove(&delivery.message_row);
    }
    let over = deliveries.iter().filter(|old| messages.contains(&old.message_row));
    let over: Vec<Uuid> = over.map(|delivery| delivery.delivery_id).collect();
    let attempts = tx.drop_deliveries(&over).await?;
    tx.drop_bodies(&of(&messages)).await?;
    let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    let (messages, deliveries) = (count(messages.len()), count(over.len()));
    let next = next.map(|(told_at, message_id, _)| (told_at, message_id));
    Ok((Pruned { messages, deliveries, attempts }, next))
}

fn of(messages: &HashSet<Uuid>) -> Vec<Uuid> {
    messages.iter().copied().collect()
}
