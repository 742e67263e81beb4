//! What an endpoint's owner can do with it: make it, give it another secret, try it out. Secrets and
//! headers are sealed before they are stored and opened only to be used.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use http::HeaderMap;
use uuid::Uuid;

use super::attempt::{self, Letter};
use super::client::{Client, Posted};
use crate::clock;
use crate::secrets::{Keyring, OpenError};
use crate::store::Endpoint;
use crate::webhook::{
    DEFAULT_TIMEOUT_SECONDS, MessageId, MessageKey, OwnHeaders, PayloadKind, RotationError, Secret,
    SecretError, SigningSecrets, ping_payload,
};

/// An endpoint at this URL (see [`super::Guard::check_url`]) that hears of everything of its
/// owner's; `None`: of everyone's.
pub fn new_endpoint(
    keyring: &Keyring,
    (url, owner): (String, Option<i64>),
    secret: Secret,
    now: DateTime<Utc>,
) -> Endpoint {
    Endpoint {
        endpoint_id: clock::new_id(now),
        owner,
        tenant_id: None,
        character_slug: None,
        event_types: Vec::new(),
        payload: PayloadKind::default(),
        url,
        sealed_secret: seal_secrets(keyring, &SigningSecrets::new(secret)),
        sealed_headers: None,
        timeout_seconds: DEFAULT_TIMEOUT_SECONDS,
        rate_limit_per_minute: None,
        disabled: None,
        created_at: now,
        version: 1,
    }
}

/// A fresh secret.
pub fn new_secret() -> Secret {
    Secret::generate(clock::random_key())
}

/// Why what is sealed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The seal does not open.
    #[error(transparent)]
    Sealed(#[from] OpenError),
    /// It opens, and something else is in it.
    #[error(transparent)]
    Form(#[from] SecretError),
    /// It opens, and it is no headers.
    #[error("what is sealed as headers is none")]
    Headers,
}

/// An endpoint's secrets.
pub fn open_secrets(keyring: &Keyring, sealed: &[u8]) -> Result<SigningSecrets, SecretsError> {
    let plain = keyring.open(sealed)?;
    Ok(SigningSecrets::parse(&String::from_utf8_lossy(&plain))?)
}

/// An endpoint's own headers.
pub fn open_headers(keyring: &Keyring, sealed: Option<&[u8]>) -> Result<OwnHeaders, SecretsError> {
    let Some(sealed) = sealed else { return Ok(OwnHeaders::default()) };
    OwnHeaders::from_json(&keyring.open(sealed)?).ok_or(SecretsError::Headers)
}

/// Seals an endpoint's own headers; nothing, if there are none.
pub fn seal_headers(keyring: &Keyring, headers: &OwnHeaders) -> Option<Vec<u8>> {
    headers.to_json().map(|json| keyring.seal(&json))
}

fn seal_secrets(keyring: &Keyring, secrets: &SigningSecrets) -> Vec<u8> {
    keyring.seal(secrets.to_text().as_bytes())
}

/// Why an endpoint does not get another secret.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// Its present ones cannot be read.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// They may not be replaced by this one.
    #[error(transparent)]
    Rotation(#[from] RotationError),
}

/// The endpoint with a new secret. The present one signs along for `overlap`; with none it ends at
/// once, and so do all before it.
pub fn rotate(
    keyring: &Keyring,
    endpoint: &Endpoint,
    secret: Secret,
    now: DateTime<Utc>,
    overlap: TimeDelta,
) -> Result<Endpoint, RotateError> {
    let secrets = open_secrets(keyring, &endpoint.sealed_secret);
    let rotated = match secrets {
        // Whoever wants no overlap does not need what cannot be read.
        Err(_) if overlap <= TimeDelta::zero() => SigningSecrets::new(secret),
        secrets => secrets?.rotated(secret, now, overlap)?,
    };
    Ok(Endpoint { sealed_secret: seal_secrets(keyring, &rotated), ..endpoint.clone() })
}

/// The endpoint with everything sealed by the present key, if some of it was sealed by an earlier
/// one.
pub fn reseal(keyring: &Keyring, endpoint: &Endpoint) -> Result<Option<Endpoint>, OpenError> {
    let secret = keyring.reseal(&endpoint.sealed_secret)?;
    let headers = endpoint.sealed_headers.as_deref();
    let headers = headers.map(|sealed| keyring.reseal(sealed)).transpose()?.flatten();
    if secret.is_none() && headers.is_none() {
        return Ok(None);
    }
    let mut resealed = endpoint.clone();
    resealed.sealed_secret = secret.unwrap_or(resealed.sealed_secret);
    resealed.sealed_headers = headers.or(resealed.sealed_headers);
    Ok(Some(resealed))
}

/// Tries an endpoint out: one `endpoint.ping`, whether it is disabled or not. Nothing is kept of it.
pub async fn ping(
    client: &Client,
    keyring: &Keyring,
    endpoint: &Endpoint,
    installation: Uuid,
    now: DateTime<Utc>,
) -> Result<(MessageId, Posted), SecretsError> {
    let secrets = open_secrets(keyring, &endpoint.sealed_secret)?;
    let headers: HeaderMap = open_headers(keyring, endpoint.sealed_headers.as_deref())?.to_map();
    let (endpoint_id, nonce) = (endpoint.endpoint_id, clock::new_id(now));
    let message_id = MessageId::new(installation, &MessageKey::Ping { endpoint_id, nonce });
    let body = ping_payload(endpoint_id, now);
    let letter =
        Letter { url: &endpoint.url, secrets: &secrets, headers, message_id, body, trace: None };
    Ok((message_id, attempt::send(client, letter, now, timeout(endpoint)).await))
}

/// How long an attempt to this endpoint may take.
pub(super) fn timeout(endpoint: &Endpoint) -> Duration {
    Duration::from_secs(u64::from(endpoint.timeout_seconds))
}
