//! `LiveKit`'s own webhooks as events: what they say of egresses becomes `recording.updated`,
//! `room_finished` becomes `room.finished`.

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
    #[serde(rename = "createdAt", alias = "created_at", borrow)]
    created_at: Option<&'a RawValue>,
    #[serde(borrow)]
    room: Option<&'a RawValue>,
    #[serde(rename = "egressInfo", alias = "egress_info", borrow)]
    egress_info: Option<&'a RawValue>,
}

/// `livekit.Room`, cut to what we use.
#[derive(Deserialize, Default)]
struct Room<'a> {
    #[serde(borrow)]
    sid: Option<&'a RawValue>,
    name: Option<&'a RawValue>,
}

/// The event that the webhook becomes.
#[derive(Serialize)]
struct Told<'a> {
    r#type: &'static str,
    schema_version: u32,
    event_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    egress: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred_at: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_name: Option<&'a RawValue>,
}

/// The event in the body of one of `LiveKit`'s webhooks; `None` if it is none of ours. What is no
/// webhook at all is an event as it is, so that it fails with all its bytes.
pub fn event_of(body: &Bytes) -> Option<RawEvent> {
    let bytes = match serde_json::from_slice::<Webhook<'_>>(body) {
        Ok(webhook) => webhook.told()?,
        Err(_) => body.clone(),
    };
    Some(RawEvent { bytes, source: SOURCE.into(), headers: None })
}

impl Webhook<'_> {
    fn told(&self) -> Option<Bytes> {
        let told = match self.event.as_deref()? {
            "egress_started" | "egress_updated" | "egress_ended" => {
                Told { egress: self.egress_info, ..self.of_type(EventType::Recording) }
            }
            "room_finished" => {
                let Room { sid, name } = self.room();
                Told {
                    occurred_at: self.created_at.map(unquoted),
                    room_id: sid,
                    room_name: name,
                    ..self.of_type(EventType::Room)
                }
            }
            _ => return None,
        };
        Some(serde_json::to_vec(&told).expect("a webhook is JSON").into())
    }

    fn of_type(&self, event_type: EventType) -> Told<'_> {
        Told {
            r#type: event_type.as_str(),
            schema_version: 1,
            event_id: self.id.as_deref().unwrap_or_default(),
            egress: None,
            occurred_at: None,
            room_id: None,
            room_name: None,
        }
    }

    /// What is no room names none: the event says what is missing.
    fn room(&self) -> Room<'_> {
        self.room.and_then(|room| serde_json::from_str(room.get()).ok()).unwrap_or_default()
    }
}

/// Protobuf's JSON writes whole numbers as strings; an event's time is a number, or RFC 3339.
fn unquoted(number: &RawValue) -> &RawValue {
    let digits = number.get().trim_matches('"');
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let unquoted = is_number.then(|| serde_json::from_str::<&RawValue>(digits).ok()).flatten();
    unquoted.unwrap_or(number)
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
    fn a_room_that_is_finished_is_an_event() {
        for (key, at) in [("createdAt", r#""1780000186""#), ("created_at", "1780000186")] {
            let room = r#"{ "sid": "RM_1", "name": "a \"room\"", "creationTime": "1780000000" }"#;
            let body =
                format!(r#"{{"event":"room_finished","room":{room},"id":"EV_1","{key}":{at}}}"#);
            let event = event_of(&body.into()).unwrap();
            let Ok(Event::Room(room)) = decode(&event.bytes) else { panic!("{event:?}") };
            assert_eq!(room.envelope.event_id.as_str(), "EV_1");
            assert_eq!(room.finished_at.timestamp(), 1_780_000_186);
            let texts = [room.room_id, room.room_name].map(|text| text.unwrap().to_owned_string());
            assert_eq!(texts, ["RM_1", "a \"room\""]);
            assert_eq!((&*event.source, room.session_id), (SOURCE, None));
        }
    }

    #[test]
    fn other_webhooks_are_none_of_ours() {
        assert_eq!(taken(r#"{"event":"room_started","room":{"sid":"RM_1"},"id":"EV_1"}"#), None);
        assert_eq!(taken(r#"{"event":"participant_left","room":{"sid":"RM_1"}}"#), None);
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
            (r#"{"event":"room_finished"}"#, FailureCode::InvalidEvent, Some("/room_id")),
            (r#"{"event":"room_finished","room":7}"#, FailureCode::InvalidEvent, Some("/room_id")),
            (
                r#"{"event":"room_finished","room":{"sid":"RM_1"}}"#,
                FailureCode::InvalidEvent,
                Some("/occurred_at"),
            ),
            (
                r#"{"event":"room_finished","room":{"sid":7},"createdAt":"1"}"#,
                FailureCode::InvalidEvent,
                Some("/room_id"),
            ),
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
