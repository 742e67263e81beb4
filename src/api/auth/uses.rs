//! When keys were last used: remembered in memory, so that a request does not write.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::Store;

/// The uses since they were last written.
#[derive(Debug, Default)]
pub(super) struct KeyUses {
    last: Mutex<HashMap<Uuid, DateTime<Utc>>>,
}

impl KeyUses {
    /// The key was used.
    pub(super) fn note(&self, key_id: Uuid, now: DateTime<Utc>) {
        let mut last = self.lock();
        let used_at = last.entry(key_id).or_insert(now);
        *used_at = now.max(*used_at);
    }

    /// Writes them, all together. While the database is away they are kept for the next time.
    pub(super) async fn write(&self, store: &dyn Store) {
        let uses: Vec<_> = std::mem::take(&mut *self.lock()).into_iter().collect();
        if uses.is_empty() {
            return;
        }
        if let Err(error) = store.note_api_key_uses(&uses).await {
            tracing::warn!("the last use of {} keys is written later: {error}", uses.len());
            for (key_id, used_at) in uses {
                self.note(key_id, used_at);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, DateTime<Utc>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
