//! A session as people see it: the API's `data`, and the two kinds of webhook body.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::session::Session;
use crate::webhook::EventType;

/// The API's `data` for a session. `presigned_url` is made at read time, if at all.
pub fn session_data(_session: &Session, _presigned_url: Option<&str>) -> Box<RawValue> {
    unimplemented!()
}

/// A `thin` body: `{type, timestamp, data}`. `egress_id` for recording messages.
pub fn thin_payload(
    _event_type: EventType,
    _timestamp: chrono::DateTime<chrono::Utc>,
    _session: &Session,
    _egress_id: Option<&str>,
    _public_url: &str,
) -> Bytes {
    unimplemented!()
}

/// A `full` body.
pub fn full_payload(
    _event_type: EventType,
    _timestamp: chrono::DateTime<chrono::Utc>,
    _session: &Session,
    _egress_id: Option<&str>,
    _public_url: &str,
) -> Bytes {
    unimplemented!()
}
