//! Standard Webhooks 1.0: `v1,` and the base64 HMAC-SHA256 of `id.timestamp.body`.

use super::message::MessageId;

/// An endpoint's signing secret: 24 to 64 bytes, written `whsec_` + base64.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// Why a text is no secret.
#[derive(Debug, thiserror::Error)]
#[error("a secret is `whsec_` followed by the base64 of 24 to 64 bytes")]
pub struct SecretError;

/// The `webhook-signature` header: one signature per secret, the newest first.
pub fn sign(_secrets: &[Secret], _id: MessageId, _timestamp: i64, _body: &[u8]) -> String {
    unimplemented!()
}
