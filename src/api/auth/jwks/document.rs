//! What a JWKS document says. Pure. A key that we cannot use is passed over, whatever it is.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::super::jwt::Verifier;
use super::{FetchError, PublishedKey};

/// RFC 7518: a key of 2048 bits or more must be used with RS256.
const LEAST_RSA_BYTES: usize = 256;
const COORDINATE_BYTES: usize = 32;

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

/// The members of a key that we read (RFC 7517, 7518, 8037).
#[derive(Deserialize)]
struct Key {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    #[serde(rename = "key_ops")]
    operations: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<Value>,
}

/// The keys that verify tokens.
pub(super) fn read(document: &[u8]) -> Result<Vec<PublishedKey>, FetchError> {
    let document: Document = serde_json::from_slice(document).map_err(FetchError::Document)?;
    let keys = document.keys.into_iter().filter_map(|key| published(&Key::deserialize(key).ok()?));
    Ok(keys.collect())
}

fn published(key: &Key) -> Option<PublishedKey> {
    let (algorithm, name, decoding) = match (key.kty.as_str(), key.crv.as_deref()) {
        ("RSA", None) => (Algorithm::RS256, "RS256", rsa(key)?),
        ("EC", Some("P-256")) => (Algorithm::ES256, "ES256", p256(key)?),
        ("OKP", Some("Ed25519")) => (Algorithm::EdDSA, "EdDSA", ed25519(key)?),
        _ => return None,
    };
    let is_for_this = key.alg.as_ref().is_none_or(|alg| alg == name);
    let is_for_signatures = key.purpose.as_ref().is_none_or(|purpose| purpose == "sig")
        && key
            .operations
            .as_ref()
            .is_none_or(|all| all.iter().any(|operation| operation == "verify"));
    // With a private half that is published anybody can sign.
    let is_fit = is_for_this && is_for_signatures && key.d.is_none();
    let verifier = Verifier::new(decoding, algorithm);
    is_fit.then(|| PublishedKey { kid: key.kid.clone(), verifier })
}

fn rsa(key: &Key) -> Option<DecodingKey> {
    let (modulus, exponent) = (bytes(key.n.as_ref())?, bytes(key.e.as_ref())?);
    let length = modulus.iter().skip_while(|byte| **byte == 0).count();
    let is_long = length >= LEAST_RSA_BYTES;
    is_long.then(|| DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

fn p256(key: &Key) -> Option<DecodingKey> {
    let (x, y) = (bytes(key.x.as_ref())?, bytes(key.y.as_ref())?);
    let is_point = x.len() == COORDINATE_BYTES && y.len() == COORDINATE_BYTES;
    is_point.then(|| DecodingKey::from_ec_der(&[&[4], &x[..], &y[..]].concat()))
}

fn ed25519(key: &Key) -> Option<DecodingKey> {
    let x = bytes(key.x.as_ref()).filter(|x| x.len() == COORDINATE_BYTES)?;
    Some(DecodingKey::from_ed_der(&x))
}

fn bytes(text: Option<&String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text?).ok()
}
