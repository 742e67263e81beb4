//! Sessions in the order in which they began, and in the order in which they became readable.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeZone as _, Utc};

use crate::finalize::Session;

/// Which sessions a history has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryFilter {
    /// Only this owner's.
    pub owner: Option<i64>,
    /// Only this tenant's.
    pub tenant_id: Option<String>,
    /// Only this character's.
    pub character_slug: Option<String>,
    /// Only those that began at this moment or later.
    pub start: Option<DateTime<Utc>>,
    /// Only those that began at this moment or earlier.
    pub end: Option<DateTime<Utc>>,
}

impl HistoryFilter {
    /// The first and the last moment, whether they were asked for or not: an index can be used for
    /// a range, not for a choice. SQLite compares times as text, which has four digits for a year.
    pub(super) fn range(&self) -> (DateTime<Utc>, DateTime<Utc>) {
        let first = Utc.with_ymd_and_hms(0, 1, 1, 0, 0, 0).single();
        let last = Utc.with_ymd_and_hms(9999, 12, 31, 23, 59, 59).single();
        let (first, last) = first.zip(last).expect("both are in the calendar");
        let within = |time: DateTime<Utc>| time.clamp(first, last);
        (self.start.map_or(first, within), self.end.map_or(last, within))
    }
}

/// How far a walk over finalized sessions has come: up to and with this one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Positions of another epoch mean nothing.
    pub(super) epoch: i32,
    /// When it was finalized, in the order of all.
    pub(super) position: u64,
    /// Which, of those that were finalized together.
    pub(super) id: i64,
}

impl Cursor {
    /// Reads what [`Cursor::to_text`] wrote; nothing is the beginning.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::default());
        }
        let bytes: [u8; 20] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (epoch, rest) = bytes.split_first_chunk()?;
        let (position, rest) = rest.split_first_chunk()?;
        Some(Self {
            epoch: i32::from_be_bytes(*epoch),
            position: u64::from_be_bytes(*position),
            id: i64::from_be_bytes(rest.try_into().ok()?),
        })
    }

    /// As a text that means something to nobody else.
    pub fn to_text(self) -> String {
        let mut bytes = self.epoch.to_be_bytes().to_vec();
        bytes.extend(self.position.to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Where to go on: at the beginning, if the cursor is none of this database's. It was put back
    /// to an earlier state, and what has been finalized since may lie before the cursor.
    pub(super) fn or_beginning(self, epoch: i32, newest: u64) -> Self {
        if self.epoch == epoch && self.position <= newest {
            self
        } else {
            Self { epoch, ..Self::default() }
        }
    }
}

/// A part of a walk.
#[derive(Debug, Clone, PartialEq)]
pub struct Walked {
    /// Sessions in the order in which they became readable.
    pub sessions: Vec<Session>,
    /// Where to go on.
    pub cursor: Cursor,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nothing_else_is_one() {
        let cursor = Cursor { epoch: 1, position: u64::MAX, id: 7 };
        assert_eq!(Cursor::parse(&cursor.to_text()), Some(cursor));
        assert_eq!(Cursor::parse(""), Some(Cursor::default()));
        for text in ["0", "x y", &format!("{}A", cursor.to_text()), &"A".repeat(28)] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_cursor_of_a_database_that_is_gone_goes_back_to_the_beginning() {
        let cursor = Cursor { epoch: 1, position: 5, id: 7 };
        assert_eq!(cursor.or_beginning(1, 5), cursor);
        let beginning = Cursor { epoch: 1, position: 0, id: 0 };
        assert_eq!(cursor.or_beginning(1, 4), beginning);
        assert_eq!(cursor.or_beginning(2, 5), Cursor { epoch: 2, ..beginning });
    }
}
