//! Bytes to events.

use super::{Event, Rejection};

/// Reads one event.
pub fn decode(_bytes: &[u8]) -> Result<Event<'_>, Rejection> {
    unimplemented!()
}
