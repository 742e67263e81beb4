//! Standard Webhooks 1.0: `v1,` and the base64 HMAC-SHA256 of `id.timestamp.body`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::message::MessageId;

/// What a secret's text begins with.
const PREFIX: &str = "whsec_";

/// An endpoint's signing secret: 24 to 64 bytes, written `whsec_` + base64. It has no `Display`,
/// and its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// Why a text is no secret.
#[derive(Debug, thiserror::Error)]
#[error("a secret is `whsec_` followed by the base64 of 24 to 64 bytes")]
pub struct SecretError;

impl Secret {
    /// A new secret of 32 random bytes, see [`crate::clock::random_key`].
    pub fn generate(random: [u8; 32]) -> Self {
        Self(random.to_vec())
    }

    /// Reads `whsec_…`.
    ///
    /// # Errors
    ///
    /// If the text does not begin so, is no base64, or is not 24 to 64 bytes.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(SecretError)?;
        Self::from_bytes(STANDARD.decode(encoded).map_err(|_| SecretError)?)
    }

    /// The secret with these bytes.
    ///
    /// # Errors
    ///
    /// If they are not 24 to 64.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SecretError> {
        if (24..=64).contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(SecretError) }
    }

    /// `whsec_…`, to be shown to its owner once.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The `webhook-signature` header: one signature per secret, in their order.
pub fn sign<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
    id: MessageId,
    timestamp: i64,
    body: &[u8],
) -> String {
    sign_named(secrets, &id.to_string(), timestamp, body)
}

/// The header, for a message of any name.
fn sign_named<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
    id: &str,
    timestamp: i64,
    body: &[u8],
) -> String {
    let signatures = secrets.into_iter().map(|secret| sign_parts(secret, id, timestamp, body));
    signatures.collect::<Vec<_>>().join(" ")
}

/// One signature, for a message of any name.
fn sign_parts(secret: &Secret, id: &str, timestamp: i64, body: &[u8]) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(&secret.0).expect("HMAC takes a key of any length");
    mac.update(id.as_bytes());
    mac.update(b".");
    mac.update(timestamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};
    use proptest::prelude::*;
    use serde::Deserialize;
    use standardwebhooks::{
        HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook,
        WebhookError,
    };

    use super::*;
    use crate::clock::SystemClock;

    const FIRST: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const SECOND: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const TIMESTAMP: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;

    /// `tests/fixtures/signatures.json` says what its fields mean.
    #[derive(Deserialize)]
    struct Vectors {
        vectors: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        name: String,
        secret: String,
        id: String,
        timestamp: i64,
        body: String,
        signed_body: Option<String>,
        header: String,
        entries: Vec<Entry>,
        verifies: bool,
    }

    #[derive(Deserialize)]
    struct Entry {
        secret: String,
        version: Option<String>,
        cut_to: Option<usize>,
        #[serde(default)]
        is_last_character_changed: bool,
    }

    impl Entry {
        fn secret(&self) -> Secret {
            Secret::parse(&self.secret).unwrap()
        }

        fn is_ours(&self) -> bool {
            self.version.is_none() && self.cut_to.is_none() && !self.is_last_character_changed
        }

        fn text(&self, id: &str, timestamp: i64, body: &str) -> String {
            let mut text = sign_parts(&self.secret(), id, timestamp, body.as_bytes());
            if let Some(version) = &self.version {
                text.replace_range(..2, version);
            }
            if self.is_last_character_changed {
                let last = if text.ends_with("A=") { "E=" } else { "A=" };
                text.replace_range(text.len() - 2.., last);
            }
            text.truncate(self.cut_to.unwrap_or(text.len()));
            text
        }
    }

    impl Vector {
        fn header_at(&self, timestamp: i64) -> String {
            let body = self.signed_body.as_ref().unwrap_or(&self.body);
            let texts = self.entries.iter().map(|entry| entry.text(&self.id, timestamp, body));
            texts.collect::<Vec<_>>().join(" ")
        }

        fn verify(&self, timestamp: i64, header: &str) -> Result<(), WebhookError> {
            let headers = [
                (HEADER_WEBHOOK_ID, self.id.as_str()),
                (HEADER_WEBHOOK_TIMESTAMP, &timestamp.to_string()),
                (HEADER_WEBHOOK_SIGNATURE, header),
            ];
            let headers = headers.map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            });
            let webhook = Webhook::new(&self.secret).unwrap();
            webhook.verify(self.body.as_bytes(), &HeaderMap::from_iter(headers))
        }
    }

    fn vectors() -> Vec<Vector> {
        let text = include_str!("../../tests/fixtures/signatures.json");
        serde_json::from_str::<Vectors>(text).unwrap().vectors
    }

    #[test]
    fn headers_are_those_of_the_vectors() {
        let mut ours = 0;
        for vector in vectors() {
            assert_eq!(vector.header_at(vector.timestamp), vector.header, "{}", vector.name);
            if vector.verifies && vector.entries.iter().all(Entry::is_ours) {
                let secrets: Vec<_> = vector.entries.iter().map(Entry::secret).collect();
                let body = vector.body.as_bytes();
                let header = sign_named(&secrets, &vector.id, vector.timestamp, body);
                assert_eq!(header, vector.header, "{}", vector.name);
                ours += 1;
            }
        }
        assert!(ours > 0, "no vector is a header as we send it");
    }

    #[test]
    fn the_standards_crate_accepts_and_refuses_as_the_vectors_say() {
        let now = SystemClock::machine_now().timestamp();
        for vector in vectors() {
            match vector.verify(now, &vector.header_at(now)) {
                Ok(()) => assert!(vector.verifies, "{} must be refused", vector.name),
                Err(WebhookError::InvalidSignature) => {
                    assert!(!vector.verifies, "{} must be accepted", vector.name);
                }
                Err(error) => panic!("{}: {error}", vector.name),
            }
        }
    }

    #[test]
    fn every_secret_signs_the_newest_first() {
        let id = MessageId([7; 16]);
        let secrets = [Secret::parse(FIRST).unwrap(), Secret::parse(SECOND).unwrap()];
        let header = sign(&secrets, id, TIMESTAMP, BODY);
        let expected = [FIRST, SECOND].map(|secret| {
            Webhook::new(secret).unwrap().sign(&id.to_string(), TIMESTAMP, BODY).unwrap()
        });
        assert_eq!(header, expected.join(" "));
        assert_eq!(sign(&[], id, TIMESTAMP, BODY), "");
    }

    #[test]
    fn a_secret_is_24_to_64_bytes_behind_its_prefix() {
        let written = |length: usize| format!("whsec_{}", STANDARD.encode(vec![1; length]));
        for (length, is_secret) in [(23, false), (24, true), (32, true), (64, true), (65, false)] {
            assert_eq!(Secret::parse(&written(length)).is_ok(), is_secret, "{length}");
        }
        assert!(Secret::parse(&FIRST["whsec_".len()..]).is_err());
        assert!(Secret::parse("whsec_not base64!").is_err());
    }

    #[test]
    fn a_secret_shows_itself_only_when_asked() {
        let secret = Secret::generate([9; 32]);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!(Secret::parse(&secret.reveal()).unwrap(), secret);
    }

    proptest! {
        #[test]
        fn the_standards_crate_signs_the_same(
            key in proptest::collection::vec(any::<u8>(), 24..=64),
            id in "msg_[0-9a-f]{32}",
            timestamp in 0..4_000_000_000_i64,
            body in "\\PC{0,80}",
        ) {
            let theirs = Webhook::from_bytes(key.clone()).unwrap();
            let ours = sign_parts(&Secret::from_bytes(key).unwrap(), &id, timestamp, body.as_bytes());
            prop_assert_eq!(ours, theirs.sign(&id, timestamp, body.as_bytes()).unwrap());
        }
    }
}
