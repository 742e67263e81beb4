//! Links to files of a folder that work for a while: `…/recordings/{path}?expires=…&signature=…`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use url::Url;

use super::SettingError;

/// Why a link does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// We never made this link.
    #[error("the signature does not belong to this link")]
    Forged,
    /// It worked once.
    #[error("this link has expired")]
    Expired,
    /// The file is no longer there.
    #[error("the recording is not there")]
    Gone,
}

/// Makes and verifies links.
pub(super) struct Links {
    public_url: Url,
    key: [u8; 32],
    lifetime_s: i64,
}

impl Links {
    pub(super) fn new(
        public_url: &str,
        key: [u8; 32],
        lifetime: Duration,
    ) -> Result<Self, SettingError> {
        let public_url = Url::parse(public_url)
            .ok()
            .filter(|url| !url.cannot_be_a_base())
            .ok_or_else(|| SettingError(format!("the public URL `{public_url}` is no URL")))?;
        if lifetime.is_zero() || lifetime > Duration::from_hours(7 * 24) {
            let sentence = "signed URLs can live for one second to seven days";
            return Err(SettingError(sentence.to_owned()));
        }
        let lifetime_s = i64::try_from(lifetime.as_secs()).expect("seven days fit").max(1);
        Ok(Self { public_url, key, lifetime_s })
    }

    /// A link to the file. What is signed is where it lies, so that a link made for one folder
    /// opens no other.
    pub(super) fn link(&self, file_url: &str, path: &str, now: DateTime<Utc>) -> String {
        let expires = (now.timestamp() + self.lifetime_s).to_string();
        let signature = hex::encode(self.sign(file_url, &expires).finalize().into_bytes());
        let mut link = self.public_url.clone();
        link.path_segments_mut()
            .expect("checked by `new`")
            .pop_if_empty()
            .push("recordings")
            .extend(path.split('/'));
        link.query_pairs_mut()
            .append_pair("expires", &expires)
            .append_pair("signature", &signature);
        link.into()
    }

    pub(super) fn is_signed(&self, file_url: &str, expires: &str, signature: &str) -> bool {
        let mut bytes = [0; 32];
        hex::decode_to_slice(signature, &mut bytes).is_ok()
            && self.sign(file_url, expires).verify_slice(&bytes).is_ok()
    }

    /// `expires` must have been verified.
    pub(super) fn check_expiry(expires: &str, now: DateTime<Utc>) -> Result<(), LinkError> {
        let expires: i64 = expires.parse().map_err(|_| LinkError::Forged)?;
        if now.timestamp() < expires { Ok(()) } else { Err(LinkError::Expired) }
    }

    fn sign(&self, file_url: &str, expires: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        // A file's URL never begins with a digit and `expires` never holds a line break when we
        // sign, so that the two cannot be read in another way.
        mac.update(expires.as_bytes());
        mac.update(b"\n");
        mac.update(file_url.as_bytes());
        mac
    }
}
