//! One event, as far as it can go without the store.

use std::panic::{AssertUnwindSafe, catch_unwind};

use chrono::{DateTime, Utc};

use super::{RawEvent, headers::trace_of, livekit};
use crate::clock::new_id;
use crate::event::{Egress, Event, FailureCode, Rejection, decode};
use crate::finalize::{Change, FinishedRoom, Prepared, PriceBook, finalize, start};

/// Decodes and finalizes an event. A panic on the way is this one event's failure.
pub fn prepare(
    event: RawEvent,
    prices: &PriceBook,
    max_event_bytes: usize,
    now: DateTime<Utc>,
) -> Prepared {
    let RawEvent { bytes, source, headers } = event;
    let (change, event_id, event_type) = if bytes.len() > max_event_bytes {
        (Err(Rejection::too_large(&bytes, max_event_bytes)), None, None)
    } else {
        let is_from_livekit = *source == *livekit::SOURCE;
        match catch_unwind(AssertUnwindSafe(|| read(&bytes, prices, is_from_livekit, now))) {
            Ok(read) => read,
            Err(_) => (Err(panicked(&bytes)), None, None),
        }
    };
    let (trace, failure_id) = (trace_of(headers.as_deref()), new_id(now));
    Prepared { change, raw: bytes, source, headers, trace, event_id, event_type, failure_id }
}

/// A message that the broker gave up on, to be kept as a failure.
pub fn dead_letter(event: RawEvent, reason: &str, now: DateTime<Utc>) -> Prepared {
    let RawEvent { bytes, source, headers } = event;
    let message = format!(
        "The broker gave up on this message ({reason}): it was handed out too often without being \
         acknowledged. It was then to be tried once more, alone: if it is still a failure, look \
         for a worker that died over it, then replay it by its id."
    );
    Prepared {
        change: Err(about(&bytes, Rejection::new(FailureCode::DeliveryLimit, message))),
        raw: bytes,
        source,
        headers,
        trace: None,
        event_id: None,
        event_type: None,
        failure_id: new_id(now),
    }
}

type Read = (Result<Change, Rejection>, Option<String>, Option<&'static str>);

fn read(bytes: &[u8], prices: &PriceBook, is_from_livekit: bool, now: DateTime<Utc>) -> Read {
    let event = match decode(bytes) {
        Ok(event) => event,
        Err(rejection) => return (Err(rejection), None, None),
    };
    let event_id = event.envelope().event_id.to_owned_string();
    let event_type = event.event_type().as_str();
    let change = match &event {
        Event::Started(started) => Ok(Change::Started(Box::new(start(started)))),
        Event::Checkpoint(checkpoint) => finalize(&checkpoint.so_far, prices)
            .map(|so_far| Change::Checkpoint {
                sequence: checkpoint.sequence,
                so_far: Box::new(so_far),
            })
            .map_err(|rejection| rejection.about(&event)),
        Event::Ended(ended) => finalize(ended, prices)
            .map(|session| Change::Ended(Box::new(session)))
            .map_err(|rejection| rejection.about(&event)),
        Event::Recording(updated) => Ok(Change::Recording {
            session_id: updated.session_id,
            egress: Box::new(Egress { is_from_livekit, ..updated.egress.clone() }),
        }),
        Event::Room(room) => Ok(Change::Room(Box::new(FinishedRoom::of(room, now)))),
    };
    (change, Some(event_id), Some(event_type))
}

fn panicked(bytes: &[u8]) -> Rejection {
    let message = "Finalizer itself failed on this event, which is a defect; report it, and send \
                   the event again once it is mended.";
    let rejection = Rejection::new(FailureCode::InternalError, message);
    tracing::error!(event.bytes = bytes.len(), "an event made the program panic; it is kept");
    rejection
}

/// The rejection with what can be told of the event it is about.
fn about(bytes: &[u8], rejection: Rejection) -> Rejection {
    match catch_unwind(AssertUnwindSafe(|| decode(bytes))) {
        Ok(Err(other)) => Rejection {
            session_id: other.session_id,
            event_id: other.event_id,
            event_type: other.event_type,
            ..rejection
        },
        Ok(Ok(event)) => rejection.about(&event),
        Err(_) => rejection,
    }
}
