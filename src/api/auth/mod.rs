//! Who calls: an API key (`X-API-Key`), a JWT (`Authorization: Bearer`), or the cookie of a browser in
//! which an API key signed in to the console.

mod cookie;
mod jwks;
mod jwt;
mod uses;

use axum::extract::FromRequestParts;
use chrono::{DateTime, Utc};
use http::request::Parts;
use http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub(super) use cookie::{SignIn, clearing, csrf_token};
pub(super) use jwt::unix_seconds;
pub use jwt::{Authenticator, KeyError};

use super::ApiState;
use super::error::ApiError;
use crate::store::ApiKey;

/// What every key begins with; 64 hexadecimal digits follow.
const KEY_PREFIX: &str = "sk_";

/// Digits of a key that are shown to tell keys apart: 32 of its 256 bits.
const PREVIEW_DIGITS: usize = 8;

const NO_CREDENTIALS: ApiError =
    ApiError::Unauthorized("Give an API key (X-API-Key) or a bearer token.");
const BAD_KEY: ApiError = ApiError::Unauthorized("The API key is not valid, or not active.");

/// Who reads, and how much of it they may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Viewer {
    /// The user.
    pub user: i64,
    /// Staff see everything.
    pub is_staff: bool,
}

impl Viewer {
    /// May this viewer see what belongs to `owner`?
    pub(super) fn may_see(self, owner: i64) -> bool {
        self.is_staff || self.user == owner
    }
}

impl FromRequestParts<ApiState> for Viewer {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ApiState,
    ) -> Result<Self, Self::Rejection> {
        if let Some(key) = parts.headers.get("x-api-key") {
            return by_key(state, key.as_bytes()).await;
        }
        if let Some(token) = bearer_token(&parts.headers) {
            let viewer = state.authenticator.viewer(token, state.clock.now()).await;
            return viewer.map_err(ApiError::Unauthorized);
        }
        let hash = cookie::key_hash(parts, state)?.ok_or(NO_CREDENTIALS)?;
        by_hash(state, &hash).await
    }
}

/// A viewer who is staff.
pub(super) struct Staff(pub(super) Viewer);

impl FromRequestParts<ApiState> for Staff {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ApiState,
    ) -> Result<Self, Self::Rejection> {
        let viewer = Viewer::from_request_parts(parts, state).await?;
        if viewer.is_staff {
            Ok(Self(viewer))
        } else {
            Err(ApiError::Forbidden("Only staff may do this.".into()))
        }
    }
}

async fn by_key(state: &ApiState, text: &[u8]) -> Result<Viewer, ApiError> {
    by_hash(state, &key_hash(text).ok_or(BAD_KEY)?).await
}

async fn by_hash(state: &ApiState, hash: &[u8; 32]) -> Result<Viewer, ApiError> {
    let key = state.store.api_key(hash).await?.filter(|key| key.is_active).ok_or(BAD_KEY)?;
    state.authenticator.uses.note(key.key_id, state.clock.now());
    Ok(Viewer { user: key.user, is_staff: key.is_staff })
}

/// Whether the request came with this key.
pub(super) fn is_with_key(headers: &HeaderMap, key: &ApiKey) -> bool {
    let given = headers.get("x-api-key").and_then(|text| key_hash(text.as_bytes()));
    given == Some(key.hash)
}

/// What the store knows a key by; `None` if the text is no key. A fast hash is right: a key has
/// 256 random bits, and looking a hash up tells nothing of keys that are nearly right.
fn key_hash(text: &[u8]) -> Option<[u8; 32]> {
    let digits = text.strip_prefix(KEY_PREFIX.as_bytes())?;
    let is_key = digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit);
    is_key.then(|| Sha256::digest(text).into())
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// What a new key is to be.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// A fresh id.
    pub key_id: Uuid,
    /// What its owner calls it.
    pub name: String,
    /// Whose sessions it may read.
    pub user: i64,
    /// It may read everyone's.
    pub is_staff: bool,
    /// The present.
    pub created_at: DateTime<Utc>,
}

/// Makes a key of random bytes: its text, to be shown once and forgotten, and what is kept.
pub fn new_api_key(bytes: [u8; 32], new: NewApiKey) -> (String, ApiKey) {
    let NewApiKey { key_id, name, user, is_staff, created_at } = new;
    let text = format!("{KEY_PREFIX}{}", hex::encode(bytes));
    let key = ApiKey {
        key_id,
        hash: key_hash(text.as_bytes()).expect("a key was just written"),
        preview: text.chars().take(KEY_PREFIX.len() + PREVIEW_DIGITS).collect(),
        name,
        user,
        is_staff,
        is_active: true,
        created_at,
        last_used_at: None,
    };
    (text, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_key(byte: u8) -> (String, ApiKey) {
        let new = NewApiKey {
            key_id: Uuid::from_u128(1),
            name: "backend".to_owned(),
            user: 7,
            is_staff: false,
            created_at: DateTime::UNIX_EPOCH,
        };
        new_api_key([byte; 32], new)
    }

    #[test]
    fn a_new_key_is_found_by_its_text_and_not_by_another() {
        let (text, key) = new_key(0xab);
        assert_eq!(text, format!("sk_{}", "ab".repeat(32)));
        assert_eq!(key.preview, "sk_abababab");
        assert!(key.is_active);
        assert_eq!(key_hash(text.as_bytes()), Some(key.hash));
        assert_ne!(key_hash(new_key(0xac).0.as_bytes()), Some(key.hash));
    }

    #[test]
    fn what_does_not_look_like_a_key_is_not_looked_up() {
        let digits = "ab".repeat(32);
        let texts =
            ["", "sk_", &digits, &format!("sk_{digits}0"), &format!("sk_{}g0", &digits[..62])]
                .map(str::to_owned);
        for text in texts {
            assert_eq!(key_hash(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_scheme_of_a_token_may_be_written_in_any_case() {
        let headers = |text: &'static str| {
            HeaderMap::from_iter([(header::AUTHORIZATION, http::HeaderValue::from_static(text))])
        };
        assert_eq!(bearer_token(&headers("Bearer a.b.c")), Some("a.b.c"));
        assert_eq!(bearer_token(&headers("bearer  a.b.c")), Some("a.b.c"));
        assert_eq!(bearer_token(&headers("Basic a.b.c")), None);
        assert_eq!(bearer_token(&headers("a.b.c")), None);
    }

    #[test]
    fn staff_see_everything_and_others_their_own() {
        assert!(Viewer { user: 7, is_staff: false }.may_see(7));
        assert!(!Viewer { user: 7, is_staff: false }.may_see(8));
        assert!(Viewer { user: 7, is_staff: true }.may_see(8));
    }
}
