//! Which session a recording belongs to.

use chrono::{DateTime, TimeZone, Utc};
use uuid::Uuid;

use super::session::Session;
use crate::event::Egress;

/// How a recording's session was found, from the weakest to the strongest. A stronger one that
/// comes later wins, so that the order in which events arrive does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum JoinedBy {
    /// The room's name, when exactly one session's time overlaps.
    RoomName,
    /// The room's id, when exactly one session's time overlaps.
    RoomId,
    /// The session named the egress.
    EgressId,
    /// A report named the session.
    SessionId,
}

/// A recording and its session, if it has one.
#[derive(Debug, Clone, PartialEq)]
pub struct JoinedEgress {
    /// All reports on it, merged.
    pub egress: Egress,
    /// The session that a report named, known or not.
    pub named_session_id: Option<Uuid>,
    /// The session it belongs to.
    pub session_id: Option<Uuid>,
    /// How that was found.
    pub joined_by: Option<JoinedBy>,
    /// How often the row was written; tells the store whether another worker was first.
    pub version: i32,
}

impl JoinedEgress {
    /// A recording that is heard of for the first time.
    pub fn new(egress: Egress, named_session_id: Option<Uuid>) -> Self {
        Self { egress, named_session_id, session_id: None, joined_by: None, version: 0 }
    }
}

impl JoinedEgress {
    /// Whether anything said of the session can change where this recording belongs.
    pub(super) fn may_concern(&self, session: &Session) -> bool {
        let has_room =
            |known: &Option<String>, wanted: &Option<String>| known.is_some() && known == wanted;
        self.session_id == Some(session.session_id)
            || self.named_session_id == Some(session.session_id)
            || session.recording_egress_id.as_deref() == Some(&self.egress.egress_id)
            || has_room(&self.egress.room_id, &session.room_id)
            || has_room(&self.egress.room_name, &session.room_name)
    }

    /// What tells where it belongs.
    pub(super) fn clues(&self) -> Clues<'_> {
        Clues {
            named_session_id: self.named_session_id,
            egress_id: Some(&self.egress.egress_id),
            room_id: self.egress.room_id.as_deref(),
            room_name: self.egress.room_name.as_deref(),
            span: recorded_span(&self.egress),
        }
    }
}

impl JoinedBy {
    /// The number it is stored as.
    pub fn as_number(self) -> i16 {
        match self {
            Self::RoomName => 1,
            Self::RoomId => 2,
            Self::EgressId => 3,
            Self::SessionId => 4,
        }
    }

    /// What is stored as this number.
    pub fn from_number(number: i16) -> Option<Self> {
        [Self::RoomName, Self::RoomId, Self::EgressId, Self::SessionId]
            .into_iter()
            .find(|joined_by| joined_by.as_number() == number)
    }
}

/// The time that a recording covers, as far as it is known: a session may only be found by its
/// room if it overlaps.
pub fn recorded_span(egress: &Egress) -> (DateTime<Utc>, DateTime<Utc>) {
    let file_start = egress.file.as_ref().and_then(|file| file.started_at);
    let start = egress.started_at.or(file_start).unwrap_or_else(beginning_of_time);
    (start, egress.ended_at.unwrap_or_else(end_of_time))
}

/// What is known of something that belongs to a session.
pub(super) struct Clues<'a> {
    /// The session itself.
    pub(super) named_session_id: Option<Uuid>,
    /// An egress that a session may have named.
    pub(super) egress_id: Option<&'a str>,
    /// The room's id.
    pub(super) room_id: Option<&'a str>,
    /// The room's name.
    pub(super) room_name: Option<&'a str>,
    /// When it was: a session that is found by its room was going on at some time of it.
    pub(super) span: (DateTime<Utc>, DateTime<Utc>),
}

/// The session that something belongs to, and how that is known. `sessions` may hold others.
pub(super) fn best_match<'a>(
    clues: &Clues<'_>,
    sessions: impl Iterator<Item = &'a Session> + Clone,
) -> Option<(Uuid, JoinedBy)> {
    if let Some(named) = clues.named_session_id {
        let is_known = sessions.clone().any(|session| session.session_id == named);
        return is_known.then_some((named, JoinedBy::SessionId));
    }
    let egress_id = clues.egress_id;
    let claimed = sessions
        .clone()
        .filter(|session| {
            egress_id.is_some() && session.recording_egress_id.as_deref() == egress_id
        })
        .map(|session| session.session_id)
        .min();
    if let Some(claimed) = claimed {
        return Some((claimed, JoinedBy::EgressId));
    }
    let (start, end) = clues.span;
    let overlapping = sessions.filter(move |session| {
        session.started_at <= end && session.ended_at.is_none_or(|ended_at| ended_at >= start)
    });
    let room_id = clues.room_id;
    let by_id =
        overlapping.clone().filter(|s| room_id.is_some() && s.room_id.as_deref() == room_id);
    match exactly_one(by_id) {
        Found::One(session_id) => return Some((session_id, JoinedBy::RoomId)),
        Found::Many => return None,
        Found::Nothing => {}
    }
    let room_name = clues.room_name;
    // A session that knows its room's id, and knows another one, was in another room.
    let by_name = overlapping.filter(|session| {
        room_name.is_some()
            && session.room_name.as_deref() == room_name
            && (room_id.is_none() || session.room_id.is_none())
    });
    match exactly_one(by_name) {
        Found::One(session_id) => Some((session_id, JoinedBy::RoomName)),
        Found::Many | Found::Nothing => None,
    }
}

enum Found {
    Nothing,
    One(Uuid),
    Many,
}

fn exactly_one<'a>(mut sessions: impl Iterator<Item = &'a Session>) -> Found {
    match (sessions.next(), sessions.next()) {
        (None, _) => Found::Nothing,
        (Some(session), None) => Found::One(session.session_id),
        (Some(_), Some(_)) => Found::Many,
    }
}

fn beginning_of_time() -> DateTime<Utc> {
    Utc.timestamp_opt(-62_167_219_200, 0).single().expect("the year 0 is a time")
}

fn end_of_time() -> DateTime<Utc> {
    Utc.timestamp_opt(253_402_300_799, 0).single().expect("the year 9999 is a time")
}
