//! One attempt: sign, POST, and what the receiver's answer means.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::client::{Client, Posted};
use crate::webhook::{MessageId, Secret, sign};

/// No receiver puts us off for longer.
const LONGEST_PAUSE: TimeDelta = TimeDelta::hours(24);

/// A message on its way to one endpoint.
pub struct Letter<'a> {
    /// Where to.
    pub url: &'a str,
    /// The endpoint's secrets, the newest first.
    pub secrets: &'a [Secret],
    /// The `webhook-id`.
    pub message_id: MessageId,
    /// The exact bytes.
    pub body: Bytes,
}

/// Signs a letter with the present time and POSTs it, once.
pub async fn send(
    client: &Client,
    letter: Letter<'_>,
    now: DateTime<Utc>,
    deadline: Duration,
) -> Posted {
    let Letter { url, secrets, message_id, body } = letter;
    let timestamp = now.timestamp();
    let signature = sign(secrets, message_id, timestamp, &body);
    let headers = [
        (HeaderName::from_static("webhook-id"), message_id.to_string()),
        (HeaderName::from_static("webhook-timestamp"), timestamp.to_string()),
        (HeaderName::from_static("webhook-signature"), signature),
    ];
    let value = |text| HeaderValue::try_from(text).expect("digits and base64 make a header");
    let headers: HeaderMap = headers.map(|(name, text)| (name, value(text))).into_iter().collect();
    client.post(url, headers, body, deadline).await
}

/// What an answer means for its delivery and its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// 2xx: the message has arrived, whatever became of the rest of the response.
    Delivered,
    /// 410: the receiver wants no more messages, ever.
    Gone,
    /// 429, 502, 503, 504: the receiver has too much to do. It may have said until when.
    Overloaded(Option<DateTime<Utc>>),
    /// Anything else.
    Failed,
}

impl Answer {
    /// The meaning of what came of a POST that ended `now`.
    pub fn of(posted: &Posted, now: DateTime<Utc>) -> Self {
        let until = || parse_retry_after(posted.retry_after.as_deref()?, now);
        match posted.status {
            Some(200..=299) => Self::Delivered,
            Some(410) => Self::Gone,
            Some(429 | 503) => Self::Overloaded(until()),
            Some(502 | 504) => Self::Overloaded(None),
            _ => Self::Failed,
        }
    }

    /// Until when the receiver wants to be left alone.
    pub fn retry_after(self) -> Option<DateTime<Utc>> {
        if let Self::Overloaded(until) = self { until } else { None }
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
        assert_eq!(answer(200, None), Answer::Delivered);
        assert_eq!(answer(204, Some("9")), Answer::Delivered);
        assert_eq!(answer(302, None), Answer::Failed);
        assert_eq!(answer(404, Some("9")), Answer::Failed);
        assert_eq!(answer(410, None), Answer::Gone);
        assert_eq!(answer(429, Some("9")), Answer::Overloaded(soon));
        assert_eq!(answer(503, Some("9")), Answer::Overloaded(soon));
        assert_eq!(answer(503, None), Answer::Overloaded(None));
        assert_eq!(answer(502, Some("9")), Answer::Overloaded(None));
        assert_eq!(Answer::of(&Posted::nothing(), now()), Answer::Failed);
    }
}
