//! What a sweep found out, on its way to the merge: like an event, but nobody waits for an answer, and
//! what cannot be kept is no failure, for it is found out again.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;

use super::NoDesk;
use crate::clock::{Clock, new_id};
use crate::finalize::{Change, Outcome, Prepared};
use crate::store::{Batch, SharedStore, StoreError, Terms};

/// Takes findings to the store. Any number of processes may find out the same: the merge takes it once.
/// The deliveries that come of it are written unclaimed: the courier's own sweep has them a moment
/// later.
#[derive(Clone)]
pub struct Findings {
    /// Where sessions and recordings are.
    pub store: SharedStore,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Payloads name sessions below this URL (no slash at the end).
    pub public_url: String,
    /// The default recordings place: `s3://bucket[/prefix]` or `file:///folder`.
    pub recordings_place: String,
}

impl Findings {
    /// A finding as the merge takes it.
    pub fn prepared(change: Change, now: DateTime<Utc>) -> Prepared {
        Prepared {
            headers: None,
            trace: None,
            change: Ok(change),
            raw: Bytes::new(),
            source: "sweep".into(),
            event_id: None,
            event_type: None,
            failure_id: new_id(now),
        }
    }

    /// Takes findings, all together; if the database or the program fails on that, one by one, so
    /// that a bad one is only itself. How many had an effect.
    pub async fn tell(&self, findings: &[Prepared]) -> Result<usize, StoreError> {
        match self.try_tell(findings).await {
            Err(error @ StoreError::Transient(_)) => Err(error),
            Ok(told) => Ok(told),
            Err(_) => {
                let mut told = 0;
                for finding in findings {
                    match self.try_tell(std::slice::from_ref(finding)).await {
                        Ok(one) => told += one,
                        Err(error @ StoreError::Transient(_)) => return Err(error),
                        Err(error) => tracing::error!(
                            session.id = finding.session_id().map(tracing::field::display),
                            "what a sweep found out cannot be kept: {error}"
                        ),
                    }
                }
                Ok(told)
            }
        }
    }

    async fn try_tell(&self, findings: &[Prepared]) -> Result<usize, StoreError> {
        if findings.is_empty() {
            return Ok(0);
        }
        let terms = Terms {
            now: self.clock.now(),
            public_url: &self.public_url,
            recordings_place: &self.recordings_place,
            desk: &NoDesk,
        };
        let taking = self.store.take(Batch { terms, events: findings });
        let taken = AssertUnwindSafe(taking).catch_unwind().await;
        let taken = taken.map_err(|_| StoreError::Broken(anyhow::anyhow!("a panic")))??;
        if !taken.unjoined.is_empty() {
            self.store.join_recordings(terms, &taken.unjoined).await?;
        }
        let is_told =
            |outcome: &&Outcome| matches!(outcome, Outcome::Accepted(_) | Outcome::Finalized(_));
        Ok(taken.outcomes.iter().filter(is_told).count())
    }
}
