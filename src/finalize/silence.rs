//! Calls that end without a word, because their worker died: when they are over, and what is made of
//! them.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::join::{Clues, best_match};
use super::session::Session;
use super::transcript::milliseconds;
use crate::event::{Digest, RoomFinished, Text};

/// The `close_reason` of such a call.
const ABANDONED: &str = "abandoned";

/// What the worker has to say is waited for so long after its room was closed.
pub const ROOM_GRACE: TimeDelta = TimeDelta::minutes(15);

/// A room that is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedRoom {
    /// Of the event: copies have the same.
    pub digest: Digest,
    /// The session that was in it, if the event names it.
    pub session_id: Option<Uuid>,
    /// `LiveKit`'s room id.
    pub room_id: Option<String>,
    /// `LiveKit`'s room name.
    pub room_name: Option<String>,
    /// When it was closed.
    pub finished_at: DateTime<Utc>,
    /// When that was first heard.
    pub heard_at: DateTime<Utc>,
}

/// Nothing was heard of a call for long, says who looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// A call is over if nothing was heard of it since then.
    pub since: DateTime<Utc>,
    /// A call in a room that is closed is over if nothing was heard of either since then.
    pub since_room: DateTime<Utc>,
}

impl FinishedRoom {
    /// The room of an event that arrives now.
    pub fn of(event: &RoomFinished<'_>, now: DateTime<Utc>) -> Self {
        Self {
            digest: event.digest,
            session_id: event.session_id,
            room_id: event.room_id.as_ref().map(Text::to_owned_string),
            room_name: event.room_name.as_ref().map(Text::to_owned_string),
            finished_at: event.finished_at,
            heard_at: now,
        }
    }

    /// A session was in the room if it was going on at the moment when the room was closed.
    fn clues(&self) -> Clues<'_> {
        Clues {
            named_session_id: self.session_id,
            egress_id: None,
            room_id: self.room_id.as_deref(),
            room_name: self.room_name.as_deref(),
            span: (self.finished_at, self.finished_at),
        }
    }
}

impl Silence {
    /// What is silence now, if calls are waited for so long. `None`: nothing can be that old.
    pub fn at(now: DateTime<Utc>, abandon_after: TimeDelta) -> Option<Self> {
        let since = now.checked_sub_signed(abandon_after)?;
        let since_room = now.checked_sub_signed(ROOM_GRACE)?;
        Some(Self { since, since_room: since.max(since_room) })
    }

    /// Whether the session, as it is now, is over without a word.
    pub(super) fn is_over(&self, session: &Session, room: Option<&FinishedRoom>) -> bool {
        let Some(heard_at) = session.heard_at else { return false };
        match room {
            Some(room) => heard_at.max(room.heard_at) <= self.since_room,
            None => heard_at <= self.since,
        }
    }
}

/// The room that a session was in and that is closed. Of several the one that was closed first:
/// nobody was in it any more.
pub(super) fn room_of<'a>(
    session_id: Uuid,
    rooms: impl Iterator<Item = &'a FinishedRoom>,
    sessions: &(impl Iterator<Item = &'a Session> + Clone),
) -> Option<&'a FinishedRoom> {
    let is_its_own = |room: &&FinishedRoom| {
        best_match(&room.clues(), sessions.clone()).is_some_and(|(found, _)| found == session_id)
    };
    rooms.filter(is_its_own).min_by_key(|room| (room.finished_at, room.heard_at))
}

/// Ends a call that nobody ends: from its newest checkpoint, if there is one. It is over when the
/// room was closed, or when the last thing was heard.
pub(super) fn abandon(
    known: &Session,
    checkpoint: Option<&Session>,
    room: Option<&FinishedRoom>,
) -> Session {
    let so_far = checkpoint.unwrap_or(known);
    let heard_until = so_far.ended_at.unwrap_or(so_far.started_at);
    let ended_at = room.map_or(heard_until, |room| room.finished_at.max(heard_until));
    let duration_ms = milliseconds(so_far.started_at, ended_at);
    Session {
        id: known.id,
        version: known.version,
        ended_at: Some(so_far.started_at + TimeDelta::milliseconds(duration_ms)),
        close_reason: Some(ABANDONED.to_owned()),
        duration_ms,
        heard_at: None,
        checkpoint_sequence: None,
        digest: Session::NO_EVENT,
        ..so_far.clone()
    }
}
