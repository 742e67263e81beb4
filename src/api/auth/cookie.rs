//! The console's cookie: which API key signed in and until when, sealed; and what keeps the pages of
//! other sites from using it.

use axum::extract::FromRequestParts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use sha2::Sha256;
use url::Url;

use super::{ApiState, NO_CREDENTIALS, Viewer, by_key};
use crate::api::error::ApiError;
use crate::secrets::Keyring;

/// What the sealed text begins with, so that nothing else that is sealed passes for it.
const PURPOSE: &[u8; 8] = b"console1";
/// How long a sign-in lasts.
const LIFETIME: TimeDelta = TimeDelta::hours(12);

const ENDED: ApiError = ApiError::Unauthorized("The session has ended: sign in again.");
const OTHER_SITE: &str = "The request does not come from the console: its `Origin` or \
                          `X-CSRF-Token` is missing or wrong.";

/// Somebody signs in, with an API key.
pub(in crate::api) struct SignIn {
    pub(in crate::api) viewer: Viewer,
    pub(in crate::api) csrf_token: String,
    pub(in crate::api) set_cookie: HeaderValue,
}

impl FromRequestParts<ApiState> for SignIn {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ApiState,
    ) -> Result<Self, Self::Rejection> {
        let text = parts.headers.get("x-api-key").ok_or(NO_CREDENTIALS)?.as_bytes();
        let viewer = by_key(state, text).await?;
        let hash = super::key_hash(text).ok_or(NO_CREDENTIALS)?;
        let sealed = seal(&state.keyring, &hash, state.clock.now() + LIFETIME);
        let csrf_token = hex::encode(mac(&state.keyring, &sealed).finalize().into_bytes());
        let set_cookie = cookie(state, &sealed, LIFETIME);
        Ok(Self { viewer, csrf_token, set_cookie })
    }
}

/// The cookie of somebody who signs out.
pub(in crate::api) fn clearing(state: &ApiState) -> HeaderValue {
    cookie(state, "", TimeDelta::zero())
}

/// What the console must send along with whatever changes something.
pub(in crate::api) fn csrf_token(state: &ApiState, headers: &HeaderMap) -> Option<String> {
    let sealed = given(state, headers)?;
    Some(hex::encode(mac(&state.keyring, sealed).finalize().into_bytes()))
}

/// The hash of the key that signed in; `None` without a cookie. A request that may change something
/// must come from the console itself.
pub(super) fn key_hash(parts: &Parts, state: &ApiState) -> Result<Option<[u8; 32]>, ApiError> {
    let Some(sealed) = given(state, &parts.headers) else {
        return Ok(None);
    };
    let hash = open(&state.keyring, sealed, state.clock.now()).ok_or(ENDED)?;
    let is_safe = matches!(parts.method, Method::GET | Method::HEAD);
    if is_safe
        || is_from_own_page(&parts.headers, &state.public_url)
            && is_with_token(&parts.headers, &state.keyring, sealed)
    {
        Ok(Some(hash))
    } else {
        Err(ApiError::Forbidden(OTHER_SITE.into()))
    }
}

fn seal(keyring: &Keyring, hash: &[u8; 32], expires_at: DateTime<Utc>) -> String {
    let until = expires_at.timestamp().to_be_bytes();
    URL_SAFE_NO_PAD.encode(keyring.seal(&[PURPOSE.as_slice(), hash, &until].concat()))
}

fn open(keyring: &Keyring, sealed: &str, now: DateTime<Utc>) -> Option<[u8; 32]> {
    let plain = keyring.open(&URL_SAFE_NO_PAD.decode(sealed).ok()?).ok()?;
    let (hash, until) = plain.strip_prefix(PURPOSE)?.split_first_chunk::<32>()?;
    let until = i64::from_be_bytes(until.try_into().ok()?);
    (now.timestamp() < until).then_some(*hash)
}

/// Behind https it has a name that browsers take from this very host alone.
fn name(state: &ApiState) -> &'static str {
    if is_https(state) { "__Host-finalizer" } else { "finalizer" }
}

fn is_https(state: &ApiState) -> bool {
    state.public_url.starts_with("https://")
}

fn cookie(state: &ApiState, value: &str, lifetime: TimeDelta) -> HeaderValue {
    let (name, seconds) = (name(state), lifetime.num_seconds());
    let secure = if is_https(state) { "; Secure" } else { "" };
    let text =
        format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::try_from(text).expect("base64 and plain words")
}

fn given<'a>(state: &ApiState, headers: &'a HeaderMap) -> Option<&'a str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.find(|(other, _)| other.trim() == name(state)).map(|(_, value)| value.trim())
}

fn mac(keyring: &Keyring, sealed: &str) -> Hmac<Sha256> {
    let key = keyring.derive("console csrf");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes a key of any length");
    mac.update(sealed.as_bytes());
    mac
}

fn is_with_token(headers: &HeaderMap, keyring: &Keyring, sealed: &str) -> bool {
    let token = headers.get("x-csrf-token").and_then(|token| hex::decode(token).ok());
    token.is_some_and(|token| mac(keyring, sealed).verify_slice(&token).is_ok())
}

/// Browsers say where a request comes from, and pages cannot change it. The console may be open under
/// another name than the public one: the one that the request itself was sent to.
fn is_from_own_page(headers: &HeaderMap, public_url: &str) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = text(header::ORIGIN) else {
        return false;
    };
    let public = Url::parse(public_url).map(|url| url.origin().ascii_serialization());
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    public.is_ok_and(|public| public == origin)
        || authority.is_some() && authority == text(header::HOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: [u8; 32] = [5; 32];

    fn in_an_hour() -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::hours(1)
    }

    #[test]
    fn a_cookie_opens_until_it_ends_and_only_with_the_key_that_sealed_it() {
        let keyring = Keyring::new([7; 32]);
        let sealed = seal(&keyring, &HASH, in_an_hour());
        assert_eq!(open(&keyring, &sealed, DateTime::UNIX_EPOCH), Some(HASH));
        assert_eq!(open(&keyring, &sealed, in_an_hour()), None);
        assert_eq!(open(&Keyring::new([8; 32]), &sealed, DateTime::UNIX_EPOCH), None);
    }

    #[test]
    fn nothing_else_that_is_sealed_is_a_cookie() {
        let keyring = Keyring::new([7; 32]);
        let text = |plain: &[u8]| URL_SAFE_NO_PAD.encode(keyring.seal(plain));
        let until = in_an_hour().timestamp().to_be_bytes();
        let other = [b"whsec_ab".as_slice(), &HASH, &until].concat();
        let long = [PURPOSE.as_slice(), &HASH, &until, &[0]].concat();
        for sealed in [text(&other), text(&long), text(b"console1"), String::new(), "%".to_owned()]
        {
            assert_eq!(open(&keyring, &sealed, DateTime::UNIX_EPOCH), None, "{sealed}");
        }
    }

    #[test]
    fn a_request_comes_from_the_console_if_its_origin_is_ours() {
        let is_own = |origin: Option<&'static str>, host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            is_from_own_page(&headers, "https://voice.example.com/")
        };
        assert!(is_own(Some("https://voice.example.com"), "inside:8080"));
        assert!(is_own(Some("http://localhost:8080"), "localhost:8080"));
        assert!(!is_own(Some("http://localhost:8081"), "localhost:8080"));
        assert!(!is_own(Some("https://evil.example"), "voice.example.com"));
        assert!(!is_own(Some("null"), "localhost:8080"));
        assert!(!is_own(None, "localhost:8080"));
    }

    #[test]
    fn a_token_belongs_to_one_cookie() {
        let keyring = Keyring::new([7; 32]);
        let token = hex::encode(mac(&keyring, "one").finalize().into_bytes());
        let with = |token: &str| {
            HeaderMap::from_iter([(
                HeaderName::from_static("x-csrf-token"),
                HeaderValue::try_from(token).unwrap(),
            )])
        };
        assert!(is_with_token(&with(&token), &keyring, "one"));
        assert!(!is_with_token(&with(&token), &keyring, "two"));
        assert!(!is_with_token(&with(""), &keyring, "one"));
        assert!(!is_with_token(&HeaderMap::new(), &keyring, "one"));
    }
}
