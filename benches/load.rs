//! Fills the queue for a measurement: `load AMQP_URL COUNT` publishes so many events, each
//! confirmed, and prints how large one is.
//!
//! `load AMQP_URL COUNT PER_SECOND` publishes them at a fixed pace, whatever becomes of them, and
//! prints of each the session's id and when it was due, in microseconds: who is late, the broker
//! or this program, does not make the next ones later.
//!
//! An event is a real call's report with the turns of several real calls, 40 of them: about 8 KB.
#![expect(clippy::print_stdout, reason = "it tells the script that started it")]

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use finalizer::clock::{SystemClock, new_id};
use finalizer::intake::RawEvent;
use finalizer::intake::amqp::{AmqpSettings, HOLD_AT_MOST, Publisher};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

/// Real calls; the first is the one whose report is sent.
const CALLS: [&str; 4] = [
    include_str!("../tests/fixtures/events/call_livekit_1_8_9.json"),
    include_str!("../tests/fixtures/events/call_interrupted_tool_unicode.json"),
    include_str!("../tests/fixtures/events/call_unicode_typed.json"),
    include_str!("../tests/fixtures/events/call_hangup_mid_speech.json"),
];
const TURNS: usize = 40;
/// Seconds from one turn to the next.
const PACE_SECONDS: f64 = 4.5;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    const USAGE: &str = "usage: load AMQP_URL COUNT [PER_SECOND]";
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().context(USAGE)?;
    let count: u32 = arguments.next().context(USAGE)?.parse()?;
    let rate: Option<f64> = arguments.next().map(|rate| rate.parse()).transpose()?;
    let settings =
        AmqpSettings { url, prefetch: 1, is_declaring: true, hold_at_most: HOLD_AT_MOST };
    let mut publisher = Publisher::connect(&settings).await?;
    let mut event = long_call()?;
    let mut bytes = 0;
    let pace = rate.map(Pace::start);
    for number in 1..=count {
        rename(&mut event, number);
        let text = event.to_string();
        bytes += text.len();
        if let Some(pace) = &pace {
            pace.wait_for(number, &event).await;
        }
        let event = RawEvent { bytes: Bytes::from(text), source: "load".into(), headers: None };
        let refused = publisher.publish(event).await?;
        ensure!(refused.is_empty(), "the broker did not take {refused:?}");
    }
    let refused = publisher.finish().await?;
    ensure!(refused.is_empty(), "the broker did not take {refused:?}");
    if pace.is_none() {
        println!("{}", bytes / usize::try_from(count.max(1))?);
    }
    Ok(())
}

/// So many events a second from now on.
struct Pace {
    per_second: f64,
    start: Instant,
    start_us: i64,
}

impl Pace {
    fn start(per_second: f64) -> Self {
        let start_us = SystemClock::machine_now().timestamp_micros();
        Self { per_second, start: Instant::now(), start_us }
    }

    async fn wait_for(&self, number: u32, event: &Value) {
        let due = Duration::from_secs_f64(f64::from(number) / self.per_second);
        let due_us = self.start_us + i64::try_from(due.as_micros()).unwrap_or(i64::MAX);
        println!("{} {due_us}", event["session_id"].as_str().unwrap_or_default());
        sleep_until(self.start + due).await;
    }
}

/// The first call with the turns of all, again and again, a few seconds apart.
fn long_call() -> anyhow::Result<Value> {
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
    let mut at = f64::from(i32::try_from(started_at.timestamp())?);
    let turns = said.iter().cycle().take(TURNS).enumerate().map(|(number, item)| {
        at += PACE_SECONDS;
        json!({
            "id": format!("item_{number:012x}"),
            "type": "message",
            "role": item["role"],
            "content": item["content"],
            "metrics": { "started_speaking_at": at },
            "created_at": at,
        })
    });
    call["report"]["chat_history"]["items"] = turns.collect();
    call["ended_at"] = json!(started_at + chrono::TimeDelta::minutes(4));
    Ok(call)
}

/// Makes it another session.
fn rename(call: &mut Value, number: u32) {
    let now = SystemClock::machine_now();
    call["session_id"] = json!(new_id(now));
    call["event_id"] = json!(new_id(now));
    call["report"]["room"] = json!(format!("room-{number}"));
    call["report"]["room_id"] = json!(format!("RM_{number:012}"));
}
