//! One attempt: sign, POST, and what the receiver's answer means.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::client::{Client, Posted};
use crate::event::TraceParent;
use crate::webhook::{MessageId, SigningSecrets, sign};

/// No receiver puts us off for longer.
const LONGEST_PAUSE: TimeDelta = TimeDelta::hours(24);

/// A message on its way to one endpoint.
pub(super) struct Letter<'a> {
    /// Where to.
    pub(super) url: &'a str,
    /// The endpoint's secrets.
    pub(super) secrets: &'a SigningSecrets,
    /// The endpoint's own headers.
    pub(super) headers: HeaderMap,
    /// The `webhook-id`.
    pub(super) message_id: MessageId,
    /// The exact bytes.
    pub(super) body: Bytes,
    /// The `traceparent`.
    pub(super) trace: Option<TraceParent>,
}

/// Signs a letter with the present time and POSTs it, once.
pub(super) async fn send(
    client: &Client,
    letter: Letter<'_>,
    now: DateTime<Utc>,
    deadline: Duration,
) -> Posted {
    let Letter { url, secrets, mut headers, message_id, body, trace } = letter;
    let timestamp = now.timestamp();
    let signature = sign(secrets.live(now), message_id, timestamp, &body);
    let ours = [
        (HeaderName::from_static("webhook-id"), message_id.to_string()),
        (HeaderName::from_static("webhook-timestamp"), timestamp.to_string()),
        (HeaderName::from_static("webhook-signature"), signature),
    ];
    let value = |text| HeaderValue::try_from(text).expect("digits and base64 make a header");
    headers.extend(ours.map(|(name, text)| (name, value(text))));
    if let Some(trace) = trace {
        headers.insert("traceparent", value(trace.to_string()));
    }
    client.post(url, headers, body, deadline).await
}

/// What an answer means for its delivery and its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// 2xx: the message has arrived, whatever became of the rest of the response.
    Delivered,
    /// 410: the receiver wants no more messages, ever.
    Gone,
    /// Anything else.
    Failed {
        /// 429, 502, 504: the receiver has too much to do.
        is_overloaded: bool,
        /// With 429 or 503 it may say until when it wants to be left alone.
        retry_after: Option<DateTime<Utc>>,
    },
}

impl Answer {
    /// The meaning of what came of a POST that ended `now`.
    pub fn of(posted: &Posted, now: DateTime<Utc>) -> Self {
        match posted.status {
            Some(200..=299) => Self::Delivered,
            Some(410) => Self::Gone,
            status => Self::Failed {
                is_overloaded: matches!(status, Some(429 | 502 | 504)),
                retry_after: posted
                    .retry_after
                    .as_deref()
                    .filter(|_| matches!(status, Some(429 | 503)))
                    .and_then(|text| parse_retry_after(text, now)),
            },
        }
    }

    /// Until when the receiver wants to be left alone.
    pub fn retry_after(self) -> Option<DateTime<Utc>> {
        if let Self::Failed { retry_after, .. } = self { retry_after } else { None }
    }
}

/// `Retry-After` is a number of seconds or a date. At most 24 hours count.
fn parse_retry_after(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let text = text.trim();
    let latest = now + LONGEST_PAUSE;
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let pause = text.parse().ok().and_then(TimeDelta::try_seconds).unwrap_or(LONGEST_PAUSE);
        return Some(now + pause.min(LONGEST_PAUSE));
    }
    let date = DateTime::parse_from_rfc2822(text).ok()?.to_utc();
    (date > now).then(|| date.min(latest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-05-28T14:23:47Z".parse().unwrap()
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let parse =
            |text| parse_retry_after(text, now()).map(|until| (until - now()).num_seconds());
        assert_eq!(parse("120"), Some(120));
        assert_eq!(parse(" 0 "), Some(0));
        assert_eq!(parse("Thu, 28 May 2026 14:25:47 GMT"), Some(120));
        assert_eq!(parse("Thu, 28 May 2026 14:20:47 GMT"), None, "it has passed");
        for text in ["", "-5", "1.5", "soon", "2026-05-28T14:25:47Z"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn no_receiver_asks_for_more_than_a_day() {
        let day = Some(now() + TimeDelta::hours(24));
        for text in ["86401", "99999999999", "99999999999999999999999999"] {
            assert_eq!(parse_retry_after(text, now()), day, "{text}");
        }
        assert_eq!(parse_retry_after("Fri, 28 May 2027 14:25:47 GMT", now()), day);
    }

    #[test]
    fn each_status_has_its_meaning() {
        let answer = |status, retry_after: Option<&str>| {
            let posted = Posted {
                status: Some(status),
                retry_after: retry_after.map(str::to_owned),
                ..Posted::nothing()
            };
            Answer::of(&posted, now())
        };
        let soon = Some(now() + TimeDelta::seconds(9));
        let failed = |is_overloaded, retry_after| Answer::Failed { is_overloaded, retry_after };
        assert_eq!(answer(200, None), Answer::Delivered);
        assert_eq!(answer(204, Some("9")), Answer::Delivered);
        assert_eq!(answer(410, None), Answer::Gone);
        assert_eq!(answer(429, Some("9")), failed(true, soon));
        assert_eq!(answer(429, None), failed(true, None));
        assert_eq!(answer(503, Some("9")), failed(false, soon));
        for status in [502, 504] {
            assert_eq!(answer(status, Some("9")), failed(true, None), "{status}");
        }
        for status in [301, 302, 307, 400, 401, 404, 408, 500, 501, 503, 505, 599] {
            let retry_after = (status != 503).then_some("9");
            assert_eq!(answer(status, retry_after), failed(false, None), "{status}");
        }
        assert_eq!(Answer::of(&Posted::nothing(), now()), failed(false, None));
    }
}
