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

    /// The bytes, to be sealed before they are stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
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
    let id = id.to_string();
    let signatures = secrets.into_iter().map(|secret| sign_parts(secret, &id, timestamp, body));
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
    use proptest::prelude::*;
    use standardwebhooks::Webhook;

    use super::*;

    const FIRST: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const SECOND: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIMESTAMP: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;

    fn signature(secret: &str, body: &[u8]) -> String {
        sign_parts(&Secret::parse(secret).unwrap(), ID, TIMESTAMP, body)
    }

    #[test]
    fn signatures_are_those_of_the_standards_libraries() {
        assert_eq!(signature(FIRST, BODY), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(
            sign_parts(
                &Secret::parse(SECOND).unwrap(),
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                br#"{"email":"test@example.com","username":"test_user"}"#,
            ),
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="
        );
    }

    #[test]
    fn any_bytes_can_be_signed() {
        assert_eq!(signature(FIRST, b""), "v1,v48jdbgvh29KJz2Qc+ghw8G6vG3nAKnujWBg8oM/62A=");
        assert_eq!(
            signature(FIRST, "{\"text\":\"héllo – 你好\"}".as_bytes()),
            "v1,RAymESkm+/GjN0bik8CyRPRBe5vPlbnHNg0NyYbnthY="
        );
        assert_eq!(signature(SECOND, BODY), "v1,78nXHjpFP0tVJQW5D0SBwmVyyW87BV/rL6MgfM/Bw44=");
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
