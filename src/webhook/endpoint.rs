//! A subscriber's URL, which messages it hears of, and how it wants to be called.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use super::message::{EventType, PayloadKind};

/// A subscriber's address.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Its id.
    pub endpoint_id: Uuid,
    /// Whose sessions it hears of; `None`: everyone's.
    pub owner: Option<i64>,
    /// Only this tenant's.
    pub tenant_id: Option<String>,
    /// Only this character's.
    pub character_slug: Option<String>,
    /// Only these types; empty: all.
    pub event_types: Vec<EventType>,
    /// How much its bodies carry.
    pub payload: PayloadKind,
    /// Where to POST.
    pub url: String,
    /// The signing secrets ([`super::SigningSecrets`] as text), sealed with the installation's key.
    pub sealed_secret: Vec<u8>,
    /// Headers of its own ([`OwnHeaders`] as JSON), sealed alike; none, if it has none.
    pub sealed_headers: Option<Vec<u8>>,
    /// How long an attempt may take.
    pub timeout_seconds: u32,
    /// At most so many attempts a minute, over all processes; `None`: as fast as it takes them.
    pub rate_limit_per_minute: Option<u32>,
    /// Set when it was disabled, with the reason.
    pub disabled: Option<(DateTime<Utc>, String)>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Rises with every change: who changes an endpoint says which version they saw.
    pub version: i32,
}

/// Every attempt's time, unless the endpoint has one of its own.
pub const DEFAULT_TIMEOUT_SECONDS: u32 = 15;
/// The longest time an endpoint can ask for.
pub const LONGEST_TIMEOUT_SECONDS: u32 = 30;
/// The highest limit that is still one.
const HIGHEST_RATE_LIMIT: u32 = 600_000;
/// Headers of an endpoint's own.
const MOST_HEADERS: usize = 16;
/// Bytes of a header's name or value.
const LONGEST_HEADER: usize = 1024;

impl Endpoint {
    /// Whether this endpoint is to be told `event_type` of a session of this owner, tenant and
    /// character. Says nothing of whether it is enabled.
    pub fn hears(&self, event_type: EventType, owner: i64, tenant: &str, character: &str) -> bool {
        self.owner.is_none_or(|wanted| wanted == owner)
            && self.tenant_id.as_deref().is_none_or(|wanted| wanted == tenant)
            && self.character_slug.as_deref().is_none_or(|wanted| wanted == character)
            && self.hears_type(event_type)
    }

    /// Whether this endpoint is to be told that another one was disabled. Its filters by tenant and
    /// character are about sessions and do not count.
    pub fn hears_of_disabled(&self, other: &Self) -> bool {
        self.endpoint_id != other.endpoint_id
            && (self.owner.is_none() || self.owner == other.owner)
            && self.hears_type(EventType::EndpointDisabled)
    }

    fn hears_type(&self, event_type: EventType) -> bool {
        self.event_types.is_empty() || self.event_types.contains(&event_type)
    }
}

/// Checks how long attempts may take.
pub fn check_timeout(seconds: i64) -> Result<u32, String> {
    u32::try_from(seconds)
        .ok()
        .filter(|seconds| (1..=LONGEST_TIMEOUT_SECONDS).contains(seconds))
        .ok_or_else(|| format!("Expected 1 to {LONGEST_TIMEOUT_SECONDS} seconds."))
}

/// Checks how many attempts a minute there may be.
pub fn check_rate_limit(per_minute: i64) -> Result<u32, String> {
    u32::try_from(per_minute)
        .ok()
        .filter(|limit| (1..=HIGHEST_RATE_LIMIT).contains(limit))
        .ok_or_else(|| format!("Expected 1 to {HIGHEST_RATE_LIMIT} attempts a minute."))
}

/// Headers that an endpoint wants with every request. Their values may be secrets: `Debug` does not
/// show them.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct OwnHeaders(BTreeMap<String, String>);

/// Headers that say how a request is sent, or that are ours.
const RESERVED_HEADERS: [&str; 17] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
];

impl OwnHeaders {
    /// The headers, if they can be sent. Names are made lower-case.
    ///
    /// # Errors
    ///
    /// One sentence that names the header to change, never its value.
    pub fn new(headers: BTreeMap<String, String>) -> Result<Self, String> {
        if headers.len() > MOST_HEADERS {
            return Err(format!("Expected at most {MOST_HEADERS} headers."));
        }
        let mut checked = BTreeMap::new();
        for (name, value) in headers {
            let name = check_header(&name, &value)?;
            if checked.insert(name.clone(), value).is_some() {
                return Err(format!("The header `{name}` is there twice."));
            }
        }
        Ok(Self(checked))
    }

    /// The names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// As they are sent.
    pub fn to_map(&self) -> HeaderMap {
        let pairs = self.0.iter().filter_map(|(name, value)| {
            let mut value = HeaderValue::try_from(value).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::try_from(name).ok()?, value))
        });
        pairs.collect()
    }

    /// As they are sealed; nothing, if there are none.
    pub fn to_json(&self) -> Option<Vec<u8>> {
        let json = || serde_json::to_vec(&self.0).expect("strings are JSON");
        (!self.0.is_empty()).then(json)
    }

    /// Reads what [`Self::to_json`] wrote; `None` if it is something else.
    pub fn from_json(json: &[u8]) -> Option<Self> {
        Self::new(serde_json::from_slice(json).ok()?).ok()
    }
}

impl fmt::Debug for OwnHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// The name as it is kept.
fn check_header(name: &str, value: &str) -> Result<String, String> {
    let is_name = name.len() <= LONGEST_HEADER && HeaderName::try_from(name).is_ok();
    if !is_name {
        return Err("A header's name is letters, digits and hyphens.".to_owned());
    }
    let name = name.to_ascii_lowercase();
    if RESERVED_HEADERS.contains(&name.as_str()) || name.starts_with("webhook-") {
        return Err(format!(
            "The header `{name}` is set by whoever sends the webhook: leave it out."
        ));
    }
    let is_printable = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let is_value = is_printable && !value.trim().is_empty() && value.trim() == value;
    if !is_value || value.len() > LONGEST_HEADER {
        return Err(format!(
            "The value of `{name}` must be 1 to {LONGEST_HEADER} printable ASCII characters, \
             without spaces around them."
        ));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Result<OwnHeaders, String> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        OwnHeaders::new(pairs.collect())
    }

    #[test]
    fn headers_are_kept_as_they_are_sent_and_never_shown() {
        let own = headers(&[("X-Env", "prod"), ("Authorization", "Bearer hunter2")]).unwrap();
        assert_eq!(own.names().collect::<Vec<_>>(), ["authorization", "x-env"]);
        assert_eq!(own.to_map()["authorization"], "Bearer hunter2");
        assert_eq!(OwnHeaders::from_json(&own.to_json().unwrap()), Some(own.clone()));
        assert!(!format!("{own:?} {:?}", own.to_map()).contains("hunter2"));
        assert_eq!(OwnHeaders::default().to_json(), None);
    }

    #[test]
    fn headers_that_say_how_a_request_is_sent_are_ours() {
        for name in RESERVED_HEADERS.iter().copied().chain(["Webhook-Id", "HOST"]) {
            let refused = headers(&[(name, "x")]).unwrap_err();
            assert!(refused.contains(&name.to_ascii_lowercase()), "{refused}");
        }
    }

    #[test]
    fn no_value_can_smuggle_another_header() {
        for value in ["a\r\nhost: evil", "a\nb", "\0", "ü", "", " ", " a", "a "] {
            let refused = headers(&[("x-a", value)]).unwrap_err();
            assert!(refused.contains("`x-a`"), "{refused}");
        }
        for name in ["", "a b", "a:b", "a\r\n", "ü"] {
            assert!(headers(&[(name, "x")]).is_err(), "{name:?}");
        }
        assert!(headers(&[("X-A", "1"), ("x-a", "2")]).unwrap_err().contains("twice"));
    }

    #[test]
    fn timeouts_and_limits_have_bounds() {
        assert_eq!((check_timeout(1), check_timeout(30)), (Ok(1), Ok(30)));
        for seconds in [i64::MIN, -1, 0, 31, i64::MAX] {
            assert!(check_timeout(seconds).is_err(), "{seconds}");
        }
        assert_eq!((check_rate_limit(1), check_rate_limit(600_000)), (Ok(1), Ok(600_000)));
        for limit in [-1, 0, 600_001] {
            assert!(check_rate_limit(limit).is_err(), "{limit}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_taken_can_be_sent(name in "\\PC{0,20}", value in "\\PC{0,20}") {
            if let Ok(own) = headers(&[(&name, &value)]) {
                prop_assert_eq!(own.to_map().len(), 1);
            }
        }
    }
}
