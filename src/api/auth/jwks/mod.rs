//! The keys that an issuer of tokens publishes (a JWKS document, RFC 7517), kept up to date.

mod document;
mod fetch;

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, Header};

use super::jwt::{KeyError, Verifier};
use document::read;
use fetch::Source;

/// An older document is fetched again.
const OLDEST: TimeDelta = TimeDelta::minutes(10);
/// The document is fetched no sooner after the last try, whatever tokens say.
const PAUSE: TimeDelta = TimeDelta::minutes(1);

/// A key of the document.
pub(super) struct PublishedKey {
    /// What tokens call it.
    kid: Option<String>,
    /// Verifies with it, by the algorithm of its kind.
    pub(super) verifier: Verifier,
}

/// The document's keys, as they were last fetched.
pub(super) struct PublishedKeys {
    source: Source,
    kept: Mutex<Kept>,
    /// When it was last tried. Held while fetching: whoever comes meanwhile waits for the outcome.
    tried_at: tokio::sync::Mutex<Option<DateTime<Utc>>>,
}

/// The last good document.
#[derive(Clone, Default)]
struct Kept {
    keys: Arc<[PublishedKey]>,
    fetched_at: Option<DateTime<Utc>>,
}

impl PublishedKeys {
    /// Those at the address, none of which is known yet.
    pub(super) fn at(url: &str) -> Result<Self, KeyError> {
        Ok(Self {
            source: Source::new(url).ok_or(KeyError::JwksUrl)?,
            kept: Mutex::default(),
            tried_at: tokio::sync::Mutex::default(),
        })
    }

    /// The keys that may have signed a token. If it names one that is not known, the document is
    /// fetched first.
    pub(super) async fn fitting(
        self: &Arc<Self>,
        header: &Header,
        now: DateTime<Utc>,
    ) -> Arc<[PublishedKey]> {
        let Kept { keys, fetched_at } = self.kept();
        let is_known = match &header.kid {
            None => fetched_at.is_some(),
            Some(kid) => keys.iter().any(|key| key.kid.as_ref() == Some(kid)),
        };
        if is_known || !is_public_key_algorithm(header.alg) {
            return keys;
        }
        // A task of its own: a caller who hangs up does not take the others' answer away.
        let fetching = tokio::spawn(Arc::clone(self).fetch(now));
        if let Err(error) = fetching.await {
            tracing::error!("fetching the published keys failed: {error}");
        }
        self.kept().keys
    }

    /// Fetches the document if it is due.
    pub(super) async fn refresh(self: &Arc<Self>, now: DateTime<Utc>) {
        let is_due = self.kept().fetched_at.is_none_or(|fetched_at| now - fetched_at >= OLDEST);
        if is_due {
            Arc::clone(self).fetch(now).await;
        }
    }

    /// Fetches the document, unless it was just tried.
    async fn fetch(self: Arc<Self>, now: DateTime<Utc>) {
        let mut tried_at = self.tried_at.lock().await;
        if tried_at.is_some_and(|tried_at| now - tried_at < PAUSE) {
            return;
        }
        *tried_at = Some(now);
        match self.source.fetch().await.and_then(|document| read(&document)) {
            Ok(keys) => {
                if keys.is_empty() {
                    tracing::warn!("--jwks-url holds no key that can be used: JWTs are refused");
                }
                tracing::debug!("fetched {} published keys", keys.len());
                self.keep(Kept { keys: keys.into(), fetched_at: Some(now) });
            }
            Err(error) if self.kept().fetched_at.is_some() => {
                tracing::warn!("--jwks-url: {error}; the keys that were fetched before stay");
            }
            Err(error) => {
                tracing::warn!("--jwks-url: {error}; until it is fetched, JWTs of it are refused");
            }
        }
    }

    fn kept(&self) -> Kept {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, kept: Kept) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    }
}

impl PublishedKey {
    /// May it have signed this token? One that names no key may come from any.
    pub(super) fn fits(&self, header: &Header) -> bool {
        header.kid.is_none() || header.kid == self.kid
    }
}

/// No published key verifies by any other.
fn is_public_key_algorithm(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA)
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no connection: {0:#}")]
    Connect(anyhow::Error),
    #[error("no answer: {0:#}")]
    Answer(anyhow::Error),
    #[error("the answer is {0}, not 200")]
    Status(http::StatusCode),
    #[error("no answer within {0:?}")]
    Timeout(std::time::Duration),
    #[error("this is no JWKS document: {0}")]
    Document(#[source] serde_json::Error),
}

#[cfg(test)]
mod tests;
