//! What is counted of events that were taken.

use chrono::{DateTime, TimeDelta, Utc};

use super::amqp::{DEAD_QUEUE, QUEUE};
use super::{IntakeParts, livekit};
use crate::finalize::{Change, Outcome, Prepared, Session, unpriced_kinds};
use crate::metrics::{Became, IntakeMetrics, Source, seconds_between};

/// Counts a batch and what became of its events, just after the commit.
pub(super) fn count(parts: &IntakeParts, events: &[Prepared], outcomes: &[Outcome]) {
    let (metrics, now) = (&parts.metrics.intake, parts.clock.now());
    metrics.batch_size.observe(u32::try_from(events.len()).map_or(f64::INFINITY, f64::from));
    for (event, outcome) in events.iter().zip(outcomes) {
        count_one(metrics, source(&event.source), outcome);
        if let (Ok(Change::Ended(session)), Outcome::Finalized(_)) = (&event.change, outcome) {
            count_finalized(metrics, session, now);
        }
    }
}

/// Counts what became of an event.
pub(super) fn count_one(metrics: &IntakeMetrics, source: Source, outcome: &Outcome) {
    let became = match outcome {
        Outcome::Finalized(_) => Became::Finalized,
        Outcome::Accepted(_) => Became::Accepted,
        Outcome::Duplicate(_) => Became::Duplicate,
        Outcome::Failed { rejection, .. } => {
            // What is replayed was a failure before.
            if source != Source::Replay {
                metrics.failures.of(rejection.code).inc();
            }
            Became::Failed
        }
    };
    metrics.events.of((source, became)).inc();
}

fn count_finalized(metrics: &IntakeMetrics, session: &Session, now: DateTime<Utc>) {
    let ended_at = session.ended_at.or_else(|| {
        session.started_at.checked_add_signed(TimeDelta::milliseconds(session.duration_ms))
    });
    metrics.readable_after.observe(ended_at.map_or(0.0, |at| seconds_between(at, now)));
    for kind in unpriced_kinds(&session.cost_breakdown) {
        metrics.unpriced.of(kind).inc();
    }
}

fn source(text: &str) -> Source {
    match text.strip_prefix("amqp:") {
        Some(QUEUE) => Source::Amqp,
        Some(DEAD_QUEUE) => Source::DeadLetter,
        _ if text == "http" => Source::Http,
        _ if text == livekit::SOURCE => Source::Livekit,
        _ => Source::Other,
    }
}
