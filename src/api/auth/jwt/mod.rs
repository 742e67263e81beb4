//! JSON Web Tokens: the key decides the algorithm, never the token.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;

use super::Viewer;
use super::jwks::PublishedKeys;
use super::uses::KeyUses;
use crate::store::Store;

/// How far the issuer's clock and ours may stand apart.
const LEEWAY_S: f64 = 30.0;

const BAD_TOKEN: &str = "The token is not valid.";
const EXPIRED: &str = "The token has expired.";
const NOBODY: &str =
    "The token names no user: `user_id`, else `sub`, must be an integer or a decimal string.";

/// A key that cannot verify tokens, in one sentence.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// An empty secret would let everybody in.
    #[error("the JWT secret is empty")]
    EmptySecret,
    /// Not what we can verify with.
    #[error("the JWT public key must be PEM (`BEGIN PUBLIC KEY`): RSA, EC P-256 or Ed25519")]
    NoPublicKey,
    /// Keys that somebody on the way may exchange.
    #[error(
        "the URL of the JWKS document must be https:// (http:// only at a loopback address such \
         as 127.0.0.1), without a user name, a password or a fragment"
    )]
    JwksUrl,
}

/// Knows callers by their tokens, and when keys were used. Without keys to verify with, every token
/// is refused.
#[derive(Default)]
pub struct Authenticator {
    verifiers: Vec<Verifier>,
    published: Option<Arc<PublishedKeys>>,
    pub(super) uses: KeyUses,
}

/// A key with the only algorithm that it verifies by.
pub(super) struct Verifier {
    key: DecodingKey,
    terms: Validation,
}

/// The claims we read. Numbers may have fractions (RFC 7519).
#[derive(Deserialize)]
struct Claims {
    exp: f64,
    nbf: Option<f64>,
    user_id: Option<Value>,
    sub: Option<Value>,
    is_staff: Option<Value>,
    token_type: Option<Value>,
}

impl Authenticator {
    /// Takes tokens signed with the shared secret (HS256), or by the owner of the public key
    /// (PEM; RS256, ES256 or `EdDSA`, by the kind of key).
    pub fn new(secret: Option<&str>, public_key_pem: Option<&[u8]>) -> Result<Self, KeyError> {
        let mut verifiers = Vec::new();
        if let Some(secret) = secret {
            if secret.is_empty() {
                return Err(KeyError::EmptySecret);
            }
            let key = DecodingKey::from_secret(secret.as_bytes());
            verifiers.push(Verifier::new(key, Algorithm::HS256));
        }
        if let Some(pem) = public_key_pem {
            verifiers.push(public_key(pem).ok_or(KeyError::NoPublicKey)?);
        }
        Ok(Self { verifiers, ..Self::default() })
    }

    /// Also takes tokens signed with the keys of the JWKS document there (RS256, ES256 or `EdDSA`,
    /// by the kind of key).
    pub fn with_published(self, jwks_url: &str) -> Result<Self, KeyError> {
        Ok(Self { published: Some(Arc::new(PublishedKeys::at(jwks_url)?)), ..self })
    }

    /// Fetches the JWKS document if it is due: not there yet, or older than ten minutes.
    pub async fn refresh(&self, now: DateTime<Utc>) {
        if let Some(published) = &self.published {
            published.refresh(now).await;
        }
    }

    /// Writes when keys were last used.
    pub async fn write_uses(&self, store: &dyn Store) {
        self.uses.write(store).await;
    }

    /// Who the token says is calling; else one sentence for them.
    pub(in crate::api) async fn viewer(
        &self,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<Viewer, &'static str> {
        let header = decode_header(token).map_err(|_| BAD_TOKEN)?;
        let claims = match self.verifiers.iter().find_map(|own| own.claims(token, &header)) {
            Some(claims) => claims,
            None => self.published_claims(token, &header, now).await.ok_or(BAD_TOKEN)?,
        };
        viewer_of(&claims, now)
    }

    async fn published_claims(
        &self,
        token: &str,
        header: &Header,
        now: DateTime<Utc>,
    ) -> Option<Claims> {
        let keys = self.published.as_ref()?.fitting(header, now).await;
        let mut fitting = keys.iter().filter(|key| key.fits(header));
        fitting.find_map(|key| key.verifier.claims(token, header))
    }
}

impl Verifier {
    /// What the token says, if this key signed it.
    fn claims(&self, token: &str, header: &Header) -> Option<Claims> {
        if !self.terms.algorithms.contains(&header.alg) {
            return None;
        }
        decode(token, &self.key, &self.terms).ok().map(|token| token.claims)
    }

    pub(super) fn new(key: DecodingKey, algorithm: Algorithm) -> Self {
        let mut terms = Validation::new(algorithm);
        // The library would ask the machine for the time; `viewer_of` is given it.
        terms.validate_exp = false;
        terms.required_spec_claims.clear();
        Self { key, terms }
    }
}

fn public_key(pem: &[u8]) -> Option<Verifier> {
    // The library would also read a private key, and then verify nothing with it.
    memchr::memmem::find(pem, b"PUBLIC KEY-----")?;
    let rsa = DecodingKey::from_rsa_pem(pem).map(|key| Verifier::new(key, Algorithm::RS256));
    // An uncompressed point of P-256 has 65 bytes; of the larger curves, more.
    let is_p256 = |key: &DecodingKey| key.try_get_as_bytes().is_ok_and(|point| point.len() == 65);
    let ec = || {
        let key = DecodingKey::from_ec_pem(pem).ok().filter(is_p256);
        key.map(|key| Verifier::new(key, Algorithm::ES256))
    };
    let ed = || DecodingKey::from_ed_pem(pem).map(|key| Verifier::new(key, Algorithm::EdDSA)).ok();
    rsa.ok().or_else(ec).or_else(ed)
}

fn viewer_of(claims: &Claims, now: DateTime<Utc>) -> Result<Viewer, &'static str> {
    let Claims { exp, nbf, user_id, sub, is_staff, token_type } = claims;
    let now_s = unix_seconds(now);
    if now_s >= exp + LEEWAY_S {
        return Err(EXPIRED);
    }
    if nbf.is_some_and(|nbf| now_s + LEEWAY_S < nbf) {
        return Err(BAD_TOKEN);
    }
    // A refresh token lives long and is meant for its issuer alone.
    if token_type.as_ref().and_then(Value::as_str) == Some("refresh") {
        return Err(BAD_TOKEN);
    }
    let user = user_id.as_ref().or(sub.as_ref()).and_then(user_number).ok_or(NOBODY)?;
    Ok(Viewer { user, is_staff: is_staff.as_ref().and_then(Value::as_bool) == Some(true) })
}

/// A time as tokens have it (RFC 7519).
#[expect(clippy::cast_precision_loss, reason = "exact for some 285 thousand years")]
pub(in crate::api) fn unix_seconds(time: DateTime<Utc>) -> f64 {
    time.timestamp_millis() as f64 / 1000.0
}

fn user_number(claim: &Value) -> Option<i64> {
    match claim {
        Value::Number(number) => number.as_i64(),
        Value::String(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
