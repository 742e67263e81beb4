//! The endpoints as they were a moment ago, with their secrets opened.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::secrets::Keyring;
use crate::store::{Endpoint, SharedStore};
use crate::webhook::Secret;

/// A change of an endpoint is seen after this time at the latest.
const OLDEST_COPY: Duration = Duration::from_secs(1);

/// An endpoint, ready to be called.
pub(super) struct Addressee {
    pub(super) url: String,
    pub(super) is_disabled: bool,
    /// The newest first; none when they cannot be opened.
    pub(super) secrets: Option<Vec<Secret>>,
    sealed: Vec<u8>,
}

/// The database did not answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unanswered;

/// A copy of all endpoints, refreshed when it is needed and old.
pub(super) struct Directory {
    store: SharedStore,
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
    pub(super) fn new(store: SharedStore, keyring: Keyring) -> Self {
        Self { store, keyring, copy: Mutex::new(Copied::default()) }
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

    async fn refresh(&self, copy: &mut Copied) -> Result<(), Unanswered> {
        let asked_at = Instant::now();
        let endpoints = self.store.endpoints(None).await.map_err(|error| {
            tracing::warn!("webhooks wait, the endpoints cannot be read: {error}");
            copy.failed_at = Some(Instant::now());
            Unanswered
        })?;
        let mut known = std::mem::take(&mut copy.endpoints);
        let renewed = endpoints.into_iter().map(|endpoint| {
            let endpoint_id = endpoint.endpoint_id;
            (endpoint_id, self.renew(known.remove(&endpoint_id), endpoint))
        });
        copy.endpoints = renewed.collect();
        copy.asked_at = Some(asked_at);
        copy.failed_at = None;
        Ok(())
    }

    fn renew(&self, known: Option<Arc<Addressee>>, endpoint: Endpoint) -> Arc<Addressee> {
        let is_disabled = endpoint.disabled.is_some();
        let known = known.filter(|known| known.sealed == endpoint.sealed_secret);
        if let Some(known) = known {
            if known.url == endpoint.url && known.is_disabled == is_disabled {
                return known;
            }
            let (url, sealed) = (endpoint.url, endpoint.sealed_secret);
            return Arc::new(Addressee {
                url,
                is_disabled,
                secrets: known.secrets.clone(),
                sealed,
            });
        }
        let secrets = open_secrets(&self.keyring, &endpoint.sealed_secret).map_err(|reason| {
            let id = endpoint.endpoint_id;
            tracing::error!(endpoint.id = %id, "the secret cannot be opened: {reason}");
        });
        let (url, sealed) = (endpoint.url, endpoint.sealed_secret);
        Arc::new(Addressee { url, is_disabled, secrets: secrets.ok(), sealed })
    }
}

fn is_recent(moment: Option<Instant>) -> bool {
    moment.is_some_and(|moment| moment.elapsed() < OLDEST_COPY)
}

/// Why an endpoint's secrets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The seal does not open.
    #[error(transparent)]
    Sealed(#[from] crate::secrets::OpenError),
    /// It opens, and something else is in it.
    #[error(transparent)]
    Form(crate::webhook::SecretError),
}

/// An endpoint's signing secrets, the newest first: sealed as their `whsec_` texts, with a space
/// between two.
pub fn open_secrets(keyring: &Keyring, sealed: &[u8]) -> Result<Vec<Secret>, SecretsError> {
    let plain = keyring.open(sealed)?;
    let secrets: Result<_, _> =
        String::from_utf8_lossy(&plain).split(' ').map(Secret::parse).collect();
    secrets.map_err(SecretsError::Form)
}
