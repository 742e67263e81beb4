//! `POST /api/events/`: events by HTTP, answered after the commit that holds their effect.

use std::sync::Arc;

use axum::extract::rejection::BytesRejection;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Staff;
use super::envelope::{Envelope, Refusal, Reply};
use super::error::ApiError;
use super::intake::OpenIntake;
use crate::event::FailureCode;
use crate::intake::{Disposition, Patience, RawEvent, of_http};

/// The longest body.
pub(super) const BODY_LIMIT_BYTES: usize = 32 * 1024 * 1024;

/// A body of the greatest length holds fewer real events; what has more is empty noise, and
/// every line of it would cost an answer.
const EVENTS_LIMIT: usize = 100_000;

/// What became of one event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventAnswer)]
pub(super) struct Answer {
    /// Which event: they count from 0.
    index: usize,
    event_id: Option<String>,
    session_id: Option<Uuid>,
    status: Status,
    /// Why it failed.
    code: Option<FailureCode>,
    /// What to change about it.
    message: Option<String>,
    /// Where in it: a JSON pointer.
    pointer: Option<String>,
    /// Under which it is kept.
    failure_id: Option<Uuid>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = EventStatus)]
enum Status {
    /// It made a revision.
    Finalized,
    /// It had another effect, or waits to be joined.
    Accepted,
    /// It had been taken before.
    Duplicate,
    /// It was kept as a failure.
    Failed,
}

/// Events in
///
/// One as JSON, or a line each as `application/x-ndjson`; answered after the commit. An event that
/// fails is kept, and its answer says why. Staff only.
#[utoipa::path(
    post, path = "/api/events/", tag = "Intake", operation_id = "take_events",
    request_body(content(
        (Object = "application/json"),
        (String = "application/x-ndjson"),
    )),
    responses(
        (status = 200, description = "What became of each", body = Envelope<Vec<Answer>>),
        (status = 403, description = "You are not staff", body = Refusal),
        (status = 413, description = "The body is above 32 MiB", body = Refusal),
    ),
)]
pub(super) async fn take(
    OpenIntake(intake): OpenIntake,
    _staff: Staff,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Reply<Vec<Answer>>, ApiError> {
    let documents = split(&body?, is_ndjson(&headers));
    if documents.len() > EVENTS_LIMIT {
        return Err(ApiError::TooLarge("A body holds at most 100000 events: send several."));
    }
    let (source, told): (Arc<str>, _) = ("http".into(), of_http(&headers));
    let events = documents
        .into_iter()
        .map(|bytes| RawEvent { bytes, source: Arc::clone(&source), headers: told.clone() })
        .collect();
    answer(intake.take(events, Patience::Now).await)
}

fn is_ndjson(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|text| text.split(';').next()).unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/x-ndjson")
}

/// One document, or a document a line; lines of white space are none.
fn split(body: &Bytes, is_ndjson: bool) -> Vec<Bytes> {
    if !is_ndjson {
        return vec![body.clone()];
    }
    body.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
        .map(|line| body.slice_ref(line))
        .collect()
}

/// Events can be sent again without harm: when one must be, all are.
fn answer(dispositions: Vec<Disposition>) -> Result<Reply<Vec<Answer>>, ApiError> {
    let answers: Vec<Answer> = dispositions
        .into_iter()
        .enumerate()
        .map(|(index, disposition)| Answer::new(index, disposition))
        .collect::<Option<_>>()
        .ok_or(ApiError::Unavailable(
            "The events cannot be taken right now; send all of them again.",
        ))?;
    Ok(Reply { message: summary(&answers).into(), data: answers })
}

fn summary(answers: &[Answer]) -> String {
    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    format!(
        "Events: {} finalized, {} accepted, {} duplicate, {} failed.",
        count(Status::Finalized),
        count(Status::Accepted),
        count(Status::Duplicate),
        count(Status::Failed),
    )
}

impl Answer {
    /// `None`: the event was not taken and must be sent again.
    fn new(index: usize, disposition: Disposition) -> Option<Self> {
        Some(match disposition {
            Disposition::Done { session_id, event_id, is_finalized } => {
                let status = if is_finalized { Status::Finalized } else { Status::Accepted };
                Self::good(index, status, session_id, event_id)
            }
            Disposition::Duplicate { session_id, event_id } => {
                Self::good(index, Status::Duplicate, session_id, event_id)
            }
            Disposition::Rejected { failure_id, rejection } => Self {
                index,
                event_id: rejection.event_id,
                session_id: rejection.session_id,
                status: Status::Failed,
                code: Some(rejection.code),
                message: Some(rejection.message),
                pointer: rejection.pointer,
                failure_id: Some(failure_id),
            },
            Disposition::Retry => return None,
        })
    }

    fn good(
        index: usize,
        status: Status,
        session_id: Option<Uuid>,
        event_id: Option<String>,
    ) -> Self {
        Self {
            index,
            event_id,
            session_id,
            status,
            code: None,
            message: None,
            pointer: None,
            failure_id: None,
        }
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Self::TooLarge("The body is longer than 32 MiB: send the events in parts.");
        }
        Self::invalid("body", "The body did not arrive whole.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Rejection;

    const SESSION: Uuid = Uuid::from_u128(7);

    fn lines(body: &'static str, is_ndjson: bool) -> Vec<Bytes> {
        split(&Bytes::from_static(body.as_bytes()), is_ndjson)
    }

    fn with_type(content_type: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type))])
    }

    #[test]
    fn a_document_is_one_event_however_many_lines_it_has() {
        assert_eq!(lines("{\n}\n", false), ["{\n}\n"]);
        assert_eq!(lines("", false), [""]);
    }

    #[test]
    fn every_line_of_ndjson_is_an_event_and_empty_lines_are_none() {
        assert_eq!(lines("{\"a\":1}\r\n\n  \n {\"b\":2}", true), ["{\"a\":1}", "{\"b\":2}"]);
        assert!(lines("", true).is_empty());
    }

    #[test]
    fn the_content_type_alone_tells_ndjson() {
        assert!(is_ndjson(&with_type("application/x-ndjson")));
        assert!(is_ndjson(&with_type("Application/X-NDJSON; charset=utf-8")));
        assert!(!is_ndjson(&with_type("application/json")));
        assert!(!is_ndjson(&HeaderMap::new()));
    }

    #[test]
    fn answers_stand_in_the_order_of_the_events() {
        let mut rejection = Rejection::invalid("/started_at", "It must be a time.");
        rejection.event_id = Some("e4".to_owned());
        let failure_id = Uuid::from_u128(9);
        let done = |is_finalized| Disposition::Done {
            session_id: Some(SESSION),
            event_id: Some("e1".to_owned()),
            is_finalized,
        };
        let reply = answer(vec![
            done(true),
            done(false),
            Disposition::Duplicate { session_id: None, event_id: None },
            Disposition::Rejected { failure_id, rejection },
        ])
        .unwrap();
        assert_eq!(reply.message, "Events: 1 finalized, 1 accepted, 1 duplicate, 1 failed.");
        let good = |index: usize, status, session: Option<Uuid>, event| {
            serde_json::json!({
                "index": index, "event_id": event, "session_id": session, "status": status,
                "code": null, "message": null, "pointer": null, "failure_id": null,
            })
        };
        assert_eq!(
            serde_json::to_value(&reply.data).unwrap(),
            serde_json::json!([
                good(0, "finalized", Some(SESSION), Some("e1")),
                good(1, "accepted", Some(SESSION), Some("e1")),
                good(2, "duplicate", None, None),
                {
                    "index": 3, "event_id": "e4", "session_id": null, "status": "failed",
                    "code": "invalid_event", "message": "It must be a time.",
                    "pointer": "/started_at", "failure_id": failure_id,
                },
            ])
        );
    }

    #[test]
    fn one_event_that_must_come_again_brings_all_of_them_again() {
        let done = Disposition::Done { session_id: None, event_id: None, is_finalized: true };
        let result = answer(vec![done, Disposition::Retry]);
        assert!(matches!(result, Err(ApiError::Unavailable(_))));
    }
}
