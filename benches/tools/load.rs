//! Publishes events to measure with: `load AMQP_URL random|rising TURNS COUNT` publishes so many,
//! each confirmed, of sessions with such ids, and prints how many bytes one has.
//!
//! With a `PER_SECOND` after them it publishes them at a fixed pace, whatever becomes of them, and
//! prints of each the session's id and when it was due, in microseconds: who is late, the broker or
//! this program, does not make the next ones later.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, ensure};
use finalizer::clock::SystemClock;
use finalizer::intake::RawEvent;
use finalizer::intake::amqp::{AmqpSettings, HOLD_AT_MOST, Publisher};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::Arguments;
use super::calls::Calls;

#[tokio::main]
pub(crate) async fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    const USAGE: &str = "usage: load AMQP_URL random|rising TURNS COUNT [PER_SECOND]";
    let url = arguments.next().context(USAGE)?;
    let ids = arguments.next().context(USAGE)?.parse()?;
    let calls = Calls::of_turns(arguments.next().context(USAGE)?.parse()?, ids)?;
    let count: u32 = arguments.next().context(USAGE)?.parse()?;
    let rate: Option<f64> = arguments.next().map(|rate| rate.parse()).transpose()?;
    let settings =
        AmqpSettings { url, prefetch: 1, is_declaring: true, hold_at_most: HOLD_AT_MOST };
    let mut publisher = Publisher::connect(&settings).await?;
    let mut pace = rate.map(Pace::start);
    let mut size = 0;
    for number in 1..=count {
        let (session_id, bytes) = calls.next();
        size = bytes.len();
        if let Some(pace) = &mut pace {
            pace.wait_for(number, session_id).await?;
        }
        let event = RawEvent { bytes, source: "load".into(), headers: None };
        let refused = publisher.publish(event).await?;
        ensure!(refused.is_empty(), "the broker did not take {refused:?}");
    }
    let refused = publisher.finish().await?;
    ensure!(refused.is_empty(), "the broker did not take {refused:?}");
    if pace.is_none() {
        println!("{size}");
    }
    Ok(())
}

/// So many events a second from now on.
struct Pace {
    per_second: f64,
    start: Instant,
    start_us: i64,
    /// Not written line by line: that would cost more than the events.
    told: std::io::BufWriter<std::io::Stdout>,
}

impl Pace {
    fn start(per_second: f64) -> Self {
        let start_us = SystemClock::machine_now().timestamp_micros();
        let told = std::io::BufWriter::new(std::io::stdout());
        Self { per_second, start: Instant::now(), start_us, told }
    }

    async fn wait_for(&mut self, number: u32, session_id: Uuid) -> anyhow::Result<()> {
        let due = Duration::from_secs_f64(f64::from(number) / self.per_second);
        let due_us = self.start_us + i64::try_from(due.as_micros())?;
        writeln!(self.told, "{session_id} {due_us}")?;
        // The runtime's clock counts milliseconds; the system's sleeps to the moment.
        sleep_until(self.start + due.saturating_sub(Duration::from_millis(2))).await;
        std::thread::sleep((self.start + due).saturating_duration_since(Instant::now()));
        Ok(())
    }
}
