//! JSON Web Tokens: the key decides the algorithm, never the token.

use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;

use super::Viewer;

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
}

/// Verifies tokens. Without keys every token is refused.
#[derive(Default)]
pub struct Authenticator {
    verifiers: Vec<Verifier>,
}

struct Verifier {
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
        Ok(Self { verifiers })
    }

    /// Who the token says is calling; else one sentence for them.
    pub(in crate::api) fn viewer(
        &self,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<Viewer, &'static str> {
        let algorithm = decode_header(token).map_err(|_| BAD_TOKEN)?.alg;
        let claims = self
            .verifiers
            .iter()
            .filter(|verifier| verifier.terms.algorithms.contains(&algorithm))
            .find_map(|verifier| decode(token, &verifier.key, &verifier.terms).ok())
            .ok_or(BAD_TOKEN)?
            .claims;
        viewer_of(&claims, now)
    }
}

impl Verifier {
    fn new(key: DecodingKey, algorithm: Algorithm) -> Self {
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
    #[expect(clippy::cast_precision_loss, reason = "exact for some 285 thousand years")]
    let now_s = now.timestamp_millis() as f64 / 1000.0;
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
