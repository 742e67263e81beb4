//! In what an event differs from the session that it conflicts with, for whoever decides between
//! the two.

use serde_json::{Map, Value, json};

use super::session::Session;
use super::summary::session_data;

/// Longer values are cut.
const LONGEST_VALUE: usize = 120;
/// So many turns that differ are shown one by one.
const MOST_TURNS: usize = 20;

/// What the store adds to a session, and what other members tell already.
const NOT_COMPARED: [&str; 10] = [
    "id",
    "finalized_at",
    "recording_status",
    "recording_url",
    "recording_presigned_url",
    "recording_offset_seconds",
    "transcript",
    "transcript_text",
    "revision",
    "version",
];

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its name, as the API has it; of a turn `transcript[3]`.
    pub field: String,
    /// What is stored, cut short; null where there is nothing.
    pub stored: Value,
    /// What the event says, cut short; null where there is nothing.
    pub event: Value,
}

/// The fields in which the session of an event differs from the one that is stored. None: it
/// differs in nothing that is shown.
pub fn differences(stored: &Session, event: &Session) -> Vec<Difference> {
    let (one, other) = (members(stored), members(event));
    let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
    let mut found: Vec<Difference> = names
        .filter(|name| !NOT_COMPARED.contains(&name.as_str()))
        .filter_map(|name| difference(name.clone(), one.get(name), other.get(name)))
        .collect();
    let turns = |of: &Map<String, Value>| match of.get("transcript") {
        Some(Value::Array(turns)) => turns.clone(),
        _ => Vec::new(),
    };
    let (one, other) = (turns(&one), turns(&other));
    let turns = (0..one.len().max(other.len())).filter_map(|index| {
        difference(format!("transcript[{index}]"), one.get(index), other.get(index))
    });
    found.extend(turns.take(MOST_TURNS));
    found
}

fn difference(field: String, stored: Option<&Value>, event: Option<&Value>) -> Option<Difference> {
    (stored != event).then(|| Difference { field, stored: short(stored), event: short(event) })
}

/// The session as it is shown, and what is kept beside that.
fn members(session: &Session) -> Map<String, Value> {
    let shown = serde_json::from_str(session_data(session, None).get());
    let Ok(Value::Object(mut members)) = shown else { return Map::new() };
    let beside = json!({
        "character_owner": session.character_owner,
        "room_id": session.room_id,
        "started_at": session.started_at,
        "ended_at": session.ended_at,
        "recording.expected": session.recording_expected,
        "recording.egress_id": session.recording_egress_id,
        "recording.url": session.recording_worker_url,
    });
    let Value::Object(beside) = beside else { return members };
    // It is `started_at`, cut to the second.
    members.remove("created_at");
    members.extend(beside);
    members
}

/// A value that fits into a line: objects and lists as text, long texts cut.
fn short(value: Option<&Value>) -> Value {
    let text = match value {
        None | Some(Value::Null) => return Value::Null,
        Some(Value::String(text)) => text.clone(),
        Some(whole @ (Value::Object(_) | Value::Array(_))) => whole.to_string(),
        Some(plain) => return plain.clone(),
    };
    if text.chars().count() <= LONGEST_VALUE {
        return Value::String(text);
    }
    Value::String(text.chars().take(LONGEST_VALUE).chain(['…']).collect())
}

#[cfg(test)]
mod tests {
    use super::super::{PriceBook, finalize, sample};
    use super::*;
    use crate::event::{Call, Role};

    fn session(call: Call<'static>) -> Session {
        finalize(&sample::ended(call), &PriceBook::builtin()).unwrap()
    }

    #[test]
    fn fields_and_turns_that_differ_are_named_and_nothing_else() {
        let mut call = sample::call();
        call.messages = vec![
            sample::message("a", Role::Assistant, "Hi!").spoke(1.0, 2.0),
            sample::message("b", Role::User, "Bye.").spoke(3.0, 4.0),
        ];
        let one = session(call.clone());
        let stored = Session { id: 9, revision: 3, version: 7, ..one.clone() };
        assert_eq!(differences(&stored, &one), []);
        call.messages[1] = sample::message("b", Role::User, "Stay.").spoke(3.0, 4.0);
        call.close_reason = Some("x".repeat(200).into());
        let found = differences(&stored, &session(call));
        let fields: Vec<&str> = found.iter().map(|found| found.field.as_str()).collect();
        assert_eq!(fields, ["close_reason", "transcript[1]"]);
        assert_eq!(found[0].stored, Value::Null);
        assert_eq!(found[0].event.as_str().unwrap().chars().count(), LONGEST_VALUE + 1);
        assert!(found[1].event.as_str().unwrap().contains("Stay."), "{found:?}");
    }

    #[test]
    fn another_owner_is_a_difference() {
        let stored = session(sample::call());
        let event = Session { character_owner: stored.character_owner + 1, ..stored.clone() };
        let found = differences(&stored, &event);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].field, "character_owner");
    }

    #[test]
    fn of_very_many_turns_only_some_are_shown() {
        let mut call = sample::call();
        let stored = session(call.clone());
        call.messages =
            (0..50).map(|_| sample::message("", Role::User, "Hi!").spoke(1.0, 2.0)).collect();
        for (index, message) in call.messages.iter_mut().enumerate() {
            message.id = Some(format!("m{index}").into());
        }
        let found = differences(&stored, &session(call));
        let turns = found.iter().filter(|found| found.field.starts_with("transcript")).count();
        assert_eq!(turns, MOST_TURNS);
    }
}
