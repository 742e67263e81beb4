//! Ends of calls to measure with: a real call's report with the turns of several real calls, as many
//! as are wanted. 40 turns are about 8 KB, 260 about 50 KB.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use finalizer::clock::{SystemClock, new_id, random_key};
use serde_json::{Value, json};
use uuid::Uuid;

/// Real calls; the first is the one whose report is sent.
const CALLS: [&str; 4] = [
    include_str!("../../tests/fixtures/events/call_livekit_1_8_9.json"),
    include_str!("../../tests/fixtures/events/call_interrupted_tool_unicode.json"),
    include_str!("../../tests/fixtures/events/call_unicode_typed.json"),
    include_str!("../../tests/fixtures/events/call_hangup_mid_speech.json"),
];
/// Seconds from one turn to the next.
const PACE_SECONDS: f64 = 4.5;

/// What stands for the parts in which the events differ, in a text that has none of them.
const SESSION: &str = "\u{E000}";
const EVENT: &str = "\u{E001}";
const ROOM: &str = "\u{E002}";

/// What the ids of sessions are.
#[derive(Clone, Copy)]
pub(crate) enum Ids {
    /// No index knows where the next one goes.
    Random,
    /// They begin with the time.
    Rising,
}

/// Makes events that differ in their session and its room, whose names are random.
pub(crate) struct Calls {
    text: String,
    ids: Ids,
}

impl FromStr for Ids {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "random" => Ok(Self::Random),
            "rising" => Ok(Self::Rising),
            _ => bail!("ids are random or rising, not {text:?}"),
        }
    }
}

impl Calls {
    pub(crate) fn of_turns(turns: usize, ids: Ids) -> anyhow::Result<Self> {
        let mut call = long_call(turns)?;
        call["session_id"] = json!(SESSION);
        call["event_id"] = json!(EVENT);
        call["report"]["room"] = json!(format!("room-{ROOM}"));
        call["report"]["room_id"] = json!(format!("RM_{ROOM}"));
        Ok(Self { text: call.to_string(), ids })
    }

    /// The next session's event, and its id.
    pub(crate) fn next(&self) -> (Uuid, Bytes) {
        let now = SystemClock::machine_now();
        let (session, room) = (random_id(), random_id());
        let session_id = match self.ids {
            Ids::Random => session,
            Ids::Rising => new_id(now),
        };
        let text = self.text.replace(SESSION, &session_id.to_string());
        let text = text.replace(EVENT, &new_id(now).to_string());
        let text = text.replace(ROOM, &room.simple().to_string()[..12]);
        (session_id, Bytes::from(text))
    }
}

fn random_id() -> Uuid {
    let key = random_key();
    let id = key.first_chunk().expect("sixteen of its bytes");
    uuid::Builder::from_random_bytes(*id).into_uuid()
}

/// The first call with the turns of all, again and again, a few seconds apart.
fn long_call(turns: usize) -> anyhow::Result<Value> {
    let calls: Vec<Value> =
        CALLS.map(serde_json::from_str).into_iter().collect::<Result<_, _>>()?;
    let items = |call: &Value| call["report"]["chat_history"]["items"].as_array().cloned();
    let said = calls.iter().filter_map(items).flatten().filter(|item| {
        let is_spoken = item["role"] == "user" || item["role"] == "assistant";
        is_spoken && item["content"][0].as_str().is_some_and(|text| !text.trim().is_empty())
    });
    let said: Vec<Value> = said.collect();
    let mut call = calls.into_iter().next().context("a call")?;
    let started_at: DateTime<Utc> = call["started_at"].as_str().context("a start")?.parse()?;
    let start = f64::from(i32::try_from(started_at.timestamp())?);
    let turns = said.iter().cycle().zip(1..=u32::try_from(turns)?).map(|(item, number)| {
        let at = start + PACE_SECONDS * f64::from(number);
        json!({
            "id": format!("item_{number:012x}"),
            "type": "message",
            "role": item["role"],
            "content": item["content"],
            "metrics": { "started_speaking_at": at },
            "created_at": at,
        })
    });
    let turns: Vec<Value> = turns.collect();
    let ended_at = turns.last().map_or(start, |turn| turn["created_at"].as_f64().unwrap_or(start));
    call["report"]["chat_history"]["items"] = Value::from(turns);
    let lasted = TimeDelta::from_std(Duration::from_secs_f64(ended_at - start + PACE_SECONDS))?;
    call["ended_at"] = json!(started_at + lasted);
    Ok(call)
}
