//! `LiveKit`'s own webhooks as events: what they say of egresses becomes `recording.updated`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::RawEvent;
use crate::event::EventType;

/// Where such an event comes from.
pub const SOURCE: &str = "livekit";

/// `livekit.WebhookEvent`, cut to what we use.
#[derive(Deserialize)]
struct Webhook<'a> {
    event: Option<String>,
    id: Option<String>,
    #[serde(rename = "egressInfo", alias = "egress_info", borrow)]
    egress_info: Option<&'a RawValue>,
}

/// The event that the webhook becomes.
#[derive(Serialize)]
struct Updated<'a> {
    r#type: &'static str,
    schema_version: u32,
    event_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    egress: Option<&'a RawValue>,
}

/// The event in the body of one of `LiveKit`'s webhooks; `None` if it is none of ours. What is no
/// webhook at all is an event as it is, so that it fails with all its bytes.
pub fn event_of(body: &Bytes) -> Option<RawEvent> {
    let bytes = match serde_json::from_slice::<Webhook<'_>>(body) {
        Ok(webhook) if webhook.is_of_an_egress() => webhook.updated(),
        Ok(_) => return None,
        Err(_) => body.clone(),
    };
    Some(RawEvent { bytes, source: SOURCE.into(), headers: None })
}

impl Webhook<'_> {
    fn is_of_an_egress(&self) -> bool {
        let event = self.event.as_deref();
        matches!(event, Some("egress_started" | "egress_updated" | "egress_ended"))
    }

    fn updated(&self) -> Bytes {
        let updated = Updated {
            r#type: EventType::Recording.as_str(),
            schema_version: 1,
            event_id: self.id.as_deref().unwrap_or_default(),
            egress: self.egress_info,
        };
        serde_json::to_vec(&updated).expect("a webhook is JSON").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, FailureCode, decode, egress_from_slice};

    fn taken(body: &'static str) -> Option<Bytes> {
        event_of(&Bytes::from_static(body.as_bytes())).map(|event| event.bytes)
    }

    #[test]
    fn what_is_said_of_an_egress_is_an_event_with_the_very_same_report() {
        for (start, end) in [("egressInfo", "createdAt"), ("egress_info", "created_at")] {
            let info = r#"{ "egressId": "EG_1", "updatedAt":"1780000185000000001" }"#;
            let body = format!(
                r#"{{"event":"egress_ended","{start}":{info},"id":"EV_1","{end}":"1780000187"}}"#
            );
            let event = event_of(&body.into()).unwrap();
            let Ok(Event::Recording(updated)) = decode(&event.bytes) else { panic!("{event:?}") };
            assert_eq!(updated.envelope.event_id.as_str(), "EV_1");
            assert_eq!(updated.egress, egress_from_slice(info.as_bytes(), "").unwrap());
            assert_eq!((&*event.source, updated.session_id), (SOURCE, None));
        }
    }

    #[test]
    fn other_webhooks_are_none_of_ours() {
        assert_eq!(taken(r#"{"event":"room_started","room":{"sid":"RM_1"},"id":"EV_1"}"#), None);
        assert_eq!(taken("{}"), None);
    }

    #[test]
    fn what_makes_no_sense_fails_and_says_why() {
        for (body, code, pointer) in [
            ("{\"event\": \"egr", FailureCode::MalformedJson, None),
            ("", FailureCode::MalformedJson, None),
            ("[]", FailureCode::InvalidEvent, Some("")),
            (r#"{"event":7}"#, FailureCode::InvalidEvent, Some("/type")),
            (r#"{"event":"egress_ended"}"#, FailureCode::InvalidEvent, Some("/egress")),
            (
                r#"{"event":"egress_ended","egressInfo":{}}"#,
                FailureCode::InvalidEvent,
                Some("/egress/egressId"),
            ),
        ] {
            let rejection = decode(&taken(body).unwrap()).unwrap_err();
            assert_eq!((rejection.code, rejection.pointer.as_deref()), (code, pointer), "{body}");
        }
    }
}
