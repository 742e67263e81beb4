//! The endpoints as they were a moment ago, with their secrets opened.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use http::HeaderMap;
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use super::subscription::{open_headers, open_secrets, timeout};
use crate::clock::Clock;
use crate::secrets::Keyring;
use crate::store::{Endpoint, SharedStore, StoreError};
use crate::webhook::SigningSecrets;

/// A change of an endpoint is seen after this time at the latest.
const OLDEST_COPY: Duration = Duration::from_secs(1);

/// A copy that is younger is believed.
const YOUNGEST_DOUBTED: Duration = Duration::from_millis(100);

/// An endpoint, ready to be called.
pub(super) struct Addressee {
    pub(super) url: Arc<str>,
    pub(super) is_disabled: bool,
    pub(super) timeout: Duration,
    /// What it is called with; none when it cannot be opened.
    pub(super) opened: Option<Arc<Opened>>,
    /// Another process may have been told to leave it alone.
    pub(super) paused_until: Option<DateTime<Utc>>,
    sealed: Sealed,
}

/// What was sealed.
pub(super) struct Opened {
    pub(super) secrets: SigningSecrets,
    pub(super) headers: HeaderMap,
}

type Sealed = (Vec<u8>, Option<Vec<u8>>);

/// The database did not answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unanswered;

/// A copy of all endpoints, refreshed when it is needed and old.
pub(super) struct Directory {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    keyring: Keyring,
    copy: Mutex<Copied>,
}

#[derive(Default)]
struct Copied {
    asked_at: Option<Instant>,
    failed_at: Option<Instant>,
    endpoints: HashMap<Uuid, Arc<Addressee>>,
}

impl Directory {
    pub(super) fn new(store: SharedStore, clock: Arc<dyn Clock>, keyring: Keyring) -> Self {
        Self { store, clock, keyring, copy: Mutex::new(Copied::default()) }
    }

    /// The endpoint as it was at most a second ago. While the database is asked, everyone waits
    /// for that one answer.
    pub(super) async fn find(
        &self,
        endpoint_id: Uuid,
    ) -> Result<Option<Arc<Addressee>>, Unanswered> {
        let mut copy = self.copy.lock().await;
        if !is_recent(copy.asked_at) {
            if is_recent(copy.failed_at) {
                return Err(Unanswered);
            }
            self.refresh(&mut copy).await?;
        }
        Ok(copy.endpoints.get(&endpoint_id).cloned())
    }

    /// What is known is known to be wrong.
    pub(super) async fn forget(&self) {
        self.copy.lock().await.asked_at = None;
    }

    /// What is known may be wrong; but it is not asked for each time that it looks so.
    pub(super) async fn forget_soon(&self) {
        let mut copy = self.copy.lock().await;
        if copy.asked_at.is_some_and(|asked_at| asked_at.elapsed() >= YOUNGEST_DOUBTED) {
            copy.asked_at = None;
        }
    }

    async fn refresh(&self, copy: &mut Copied) -> Result<(), Unanswered> {
        let asked_at = Instant::now();
        let (endpoints, mut pauses) = self.ask().await.map_err(|error| {
            tracing::warn!("webhooks wait, the endpoints cannot be read: {error}");
            copy.failed_at = Some(Instant::now());
            Unanswered
        })?;
        let mut known = std::mem::take(&mut copy.endpoints);
        let renewed = endpoints.into_iter().map(|endpoint| {
            let endpoint_id = endpoint.endpoint_id;
            let paused_until = pauses.remove(&endpoint_id);
            let known = known.remove(&endpoint_id);
            (endpoint_id, Arc::new(self.renew(known.as_deref(), endpoint, paused_until)))
        });
        copy.endpoints = renewed.collect();
        copy.asked_at = Some(asked_at);
        copy.failed_at = None;
        Ok(())
    }

    async fn ask(&self) -> Result<(Vec<Endpoint>, HashMap<Uuid, DateTime<Utc>>), StoreError> {
        let endpoints = self.store.endpoints(None).await?;
        let health = self.store.endpoint_health(self.clock.now()).await?;
        let pauses = health
            .into_iter()
            .filter_map(|health| health.paused_until.map(|until| (health.endpoint_id, until)));
        Ok((endpoints, pauses.collect()))
    }

    fn renew(
        &self,
        known: Option<&Addressee>,
        endpoint: Endpoint,
        paused_until: Option<DateTime<Utc>>,
    ) -> Addressee {
        let (timeout, is_disabled) = (timeout(&endpoint), endpoint.disabled.is_some());
        let Endpoint { endpoint_id, url, sealed_secret, sealed_headers, .. } = endpoint;
        let sealed = (sealed_secret, sealed_headers);
        let opened = match known.filter(|known| known.sealed == sealed) {
            Some(known) => known.opened.clone(),
            None => self.open(endpoint_id, &sealed).map(Arc::new),
        };
        Addressee { url: url.into(), is_disabled, timeout, opened, paused_until, sealed }
    }

    fn open(&self, endpoint_id: Uuid, (secret, headers): &Sealed) -> Option<Opened> {
        let opened = open_secrets(&self.keyring, secret).and_then(|secrets| {
            let headers = open_headers(&self.keyring, headers.as_deref())?.to_map();
            Ok(Opened { secrets, headers })
        });
        let told = opened.map_err(|reason| {
            tracing::error!(endpoint.id = %endpoint_id, "the secret cannot be opened: {reason}");
        });
        told.ok()
    }
}

fn is_recent(moment: Option<Instant>) -> bool {
    moment.is_some_and(|moment| moment.elapsed() < OLDEST_COPY)
}
