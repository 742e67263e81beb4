//! `GET /api/overview/`: how the work is going, of late and right now. It looks at a bounded number of
//! rows, however much there is.

use axum::extract::State;
use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::Viewer;
use super::envelope::{Envelope, Reply};
use super::error::ApiError;
use super::fields::{self, QueryFields};
use crate::store::{
    Delivery, DeliveryFilter, DeliveryState, FinalizedCall, MOST_LOOKED_AT, OpenFailures,
    StoreError,
};

const MINUTES: u32 = 60;
const MOST_MINUTES: u32 = 1440;
/// A span has so many parts; each is as many seconds long as the span has minutes.
const PARTS: i32 = 60;
/// So many deliveries are looked at, spread over an owner's endpoints.
const DELIVERIES: u32 = 2_000;
/// The fewest of each endpoint.
const FEWEST_DELIVERIES: u32 = 50;

/// How the work is going.
#[derive(Serialize, ToSchema)]
#[schema(as = Overview)]
pub(super) struct OverviewData {
    /// The present.
    now: DateTime<Utc>,
    /// How long each part is.
    part_seconds: u32,
    /// The parts that begin before that are not counted whole: only the newest rows are looked at.
    complete_since: DateTime<Utc>,
    /// The earliest first; the last one is not over.
    parts: Vec<PartData>,
    /// Deliveries that may still arrive; null: more than 5000.
    pending: Option<i64>,
    /// Since when the oldest of them is owed.
    oldest_pending_at: Option<DateTime<Utc>>,
    /// Deliveries that failed to the end; null: too many to count.
    exhausted: Option<i64>,
    /// Failures that are open; null: too many to count, or you are not staff.
    open_failures: Option<i64>,
}

/// What happened in a part of the time.
#[derive(Serialize, ToSchema)]
#[schema(as = OverviewPart)]
struct PartData {
    /// When it began.
    at: DateTime<Utc>,
    /// Sessions that were finalized.
    finalized: u32,
    /// How many of them have a known end of their call.
    finalize_timed: u32,
    /// From the end of a call to its session, on average over those; null: there was none.
    finalize_seconds: Option<f64>,
    /// Deliveries that began to be owed.
    owed: u32,
    /// How many of them have arrived.
    delivered: u32,
    /// How many of them failed to the end.
    exhausted: u32,
    /// How many arrived without being sent again.
    deliver_timed: u32,
    /// From the session to the webhook that arrived, on average over those; null: there was none.
    deliver_seconds: Option<f64>,
}

/// How the work is going
///
/// Your own part of it; staff see all.
#[utoipa::path(
    get, path = "/api/overview/", tag = "Console", operation_id = "get_overview",
    params(("minutes" = Option<u32>, Query, minimum = 1, maximum = 1440,
        description = "How far to look back; 60 if left out")),
    responses((status = 200, description = "How it is going", body = Envelope<OverviewData>)),
)]
pub(super) async fn show(
    viewer: Viewer,
    State(state): State<ApiState>,
    QueryFields(mut query): QueryFields,
) -> Result<Reply<OverviewData>, ApiError> {
    let minutes = query.given("minutes", fields::within(1..=MOST_MINUTES)).unwrap_or(MINUTES);
    query.end()?;
    let now = state.clock.now();
    let mut span = Span::new(now, minutes);
    let owner = (!viewer.is_staff).then_some(viewer.user);
    let (calls, backlog, newest, open_failures) = tokio::try_join!(
        state.store.finalized_lately(owner, span.since),
        state.store.backlog(owner),
        newest_deliveries(&state, owner),
        open_failures(&state, owner, now),
    )?;
    span.add_calls(&calls);
    for (deliveries, limit) in &newest {
        span.add_deliveries(deliveries, *limit);
    }
    let data = OverviewData {
        now,
        part_seconds: minutes,
        complete_since: span.complete_since,
        parts: span.parts.iter().map(Part::show).collect(),
        pending: backlog.pending,
        oldest_pending_at: backlog.oldest_pending_at,
        exhausted: backlog.exhausted,
        open_failures,
    };
    Ok(Reply { message: "How the work is going.".into(), data })
}

/// The newest deliveries to each endpoint, or to all; and how many were asked for.
async fn newest_deliveries(
    state: &ApiState,
    owner: Option<i64>,
) -> Result<Vec<(Vec<Delivery>, u32)>, StoreError> {
    let of = |endpoint_id, limit| DeliveryFilter { endpoint_id, state: None, before: None, limit };
    let Some(owner) = owner else {
        return Ok(vec![(state.store.deliveries(&of(None, DELIVERIES)).await?, DELIVERIES)]);
    };
    let endpoints = state.store.endpoints(Some(owner)).await?;
    let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
    let each = (DELIVERIES / count.max(1)).max(FEWEST_DELIVERIES);
    let mut newest = Vec::new();
    for endpoint in endpoints {
        let filter = of(Some(endpoint.endpoint_id), each);
        newest.push((state.store.deliveries(&filter).await?, each));
    }
    Ok(newest)
}

async fn open_failures(
    state: &ApiState,
    owner: Option<i64>,
    now: DateTime<Utc>,
) -> Result<Option<i64>, StoreError> {
    match owner {
        None => state.store.count_open_failures(&OpenFailures::all(now)).await,
        Some(_) => Ok(None),
    }
}

/// The time up to now, in parts.
struct Span {
    since: DateTime<Utc>,
    part: TimeDelta,
    complete_since: DateTime<Utc>,
    parts: Vec<Part>,
}

#[derive(Default)]
struct Part {
    at: DateTime<Utc>,
    finalized: Mean,
    owed: u32,
    delivered: Mean,
    exhausted: u32,
}

/// How many there were, and how long those took of which it is known.
#[derive(Default)]
struct Mean {
    count: u32,
    timed: u32,
    total_seconds: f64,
}

impl Span {
    /// Parts begin at whole multiples of their length, so that they stay as time goes on.
    fn new(now: DateTime<Utc>, minutes: u32) -> Self {
        let part = TimeDelta::seconds(minutes.into());
        let last = now.duration_trunc(part).unwrap_or(now);
        let begins = (0..PARTS).rev().map(|back| last - part * back);
        let parts: Vec<_> = begins.map(|at| Part { at, ..Part::default() }).collect();
        let since = parts[0].at;
        Self { since, part, complete_since: since, parts }
    }

    fn part(&mut self, at: DateTime<Utc>) -> Option<&mut Part> {
        let seconds = (at - self.since).num_milliseconds().div_euclid(1000);
        let index = seconds.div_euclid(self.part.num_seconds());
        self.parts.get_mut(usize::try_from(index).ok()?)
    }

    fn add_calls(&mut self, calls: &[FinalizedCall]) {
        let earliest = calls.iter().map(|call| call.finalized_at).min();
        self.cut(earliest, calls.len(), MOST_LOOKED_AT);
        for FinalizedCall { ended_at, finalized_at } in calls {
            if let Some(part) = self.part(*finalized_at) {
                part.finalized.add(ended_at.map(|ended_at| *finalized_at - ended_at));
            }
        }
    }

    fn add_deliveries(&mut self, deliveries: &[Delivery], limit: u32) {
        let earliest = deliveries.iter().map(|delivery| delivery.created_at).min();
        self.cut(earliest, deliveries.len(), limit);
        for delivery in deliveries {
            let Some(part) = self.part(delivery.created_at) else { continue };
            part.owed += 1;
            match delivery.state {
                DeliveryState::Delivered => {
                    let is_first = delivery.redelivered_after.is_none();
                    let took = delivery.finished_at.map(|at| at - delivery.created_at);
                    part.delivered.add(took.filter(|_| is_first));
                }
                DeliveryState::Exhausted => part.exhausted += 1,
                DeliveryState::Pending | DeliveryState::Cancelled => {}
            }
        }
    }

    /// As many rows as were asked for: there are more, earlier ones.
    fn cut(&mut self, earliest: Option<DateTime<Utc>>, count: usize, limit: u32) {
        if let Some(earliest) = earliest.filter(|_| count >= limit as usize) {
            self.complete_since = self.complete_since.max(earliest);
        }
    }
}

impl Part {
    fn show(&self) -> PartData {
        PartData {
            at: self.at,
            finalized: self.finalized.count,
            finalize_timed: self.finalized.timed,
            finalize_seconds: self.finalized.mean_seconds(),
            owed: self.owed,
            delivered: self.delivered.count,
            exhausted: self.exhausted,
            deliver_timed: self.delivered.timed,
            deliver_seconds: self.delivered.mean_seconds(),
        }
    }
}

impl Mean {
    fn add(&mut self, took: Option<TimeDelta>) {
        self.count += 1;
        if let Some(took) = took {
            self.timed += 1;
            self.total_seconds += took.max(TimeDelta::zero()).as_seconds_f64();
        }
    }

    fn mean_seconds(&self) -> Option<f64> {
        let mean = self.total_seconds / f64::from(self.timed);
        (self.timed > 0).then(|| (mean * 1000.0).round() / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::webhook::{EventType, MessageId};

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn a_span_has_sixty_parts_of_which_the_last_holds_the_present() {
        let mut span = Span::new(at(0), 60);
        assert_eq!(span.parts.len(), 60);
        assert!(span.parts.is_sorted_by_key(|part| part.at));
        assert_eq!(span.parts[59].at - span.parts[0].at, TimeDelta::minutes(59));
        let last = span.parts[59].at;
        assert!(last <= at(0) && at(0) < last + TimeDelta::minutes(1));
        assert_eq!(span.part(at(0)).unwrap().at, last);
        let since = span.since;
        assert_eq!(span.part(since).unwrap().at, since);
        assert!(span.part(span.since - TimeDelta::milliseconds(1)).is_none());
        assert!(span.part(last + TimeDelta::minutes(1)).is_none());
    }

    #[test]
    fn a_part_says_how_many_there_were_and_how_long_they_took() {
        let mut span = Span::new(at(0), 60);
        let call = |ended_at| FinalizedCall { ended_at, finalized_at: at(0) };
        span.add_calls(&[call(Some(at(-1))), call(Some(at(-2))), call(Some(at(5))), call(None)]);
        let shown = span.parts[59].show();
        assert_eq!((shown.finalized, shown.finalize_timed), (4, 3));
        assert_eq!(shown.finalize_seconds, Some(1.0));
        assert_eq!(span.parts[58].show().finalize_seconds, None);
        assert_eq!(span.complete_since, span.since);
    }

    fn delivery(state: DeliveryState) -> Delivery {
        Delivery {
            delivery_id: Uuid::nil(),
            message_id: MessageId([0; 16]),
            event_type: EventType::SessionFinalized,
            session_id: None,
            endpoint_id: Uuid::nil(),
            state,
            cause: None,
            attempts: 1,
            redelivered_after: None,
            next_attempt_at: None,
            created_at: at(0),
            finished_at: Some(at(4)),
        }
    }

    #[test]
    fn how_long_it_took_is_told_of_what_arrived_without_being_sent_again() {
        let mut span = Span::new(at(0), 60);
        let mut deliveries = Vec::from(DeliveryState::ALL.map(delivery));
        deliveries.push(Delivery {
            redelivered_after: Some(1),
            finished_at: Some(at(900)),
            ..delivery(DeliveryState::Delivered)
        });
        span.add_deliveries(&deliveries, DELIVERIES);
        let shown = span.parts[59].show();
        assert_eq!((shown.owed, shown.delivered, shown.exhausted), (5, 2, 1));
        assert_eq!((shown.deliver_timed, shown.deliver_seconds), (1, Some(4.0)));
    }

    #[test]
    fn what_was_not_looked_at_is_said() {
        let mut span = Span::new(at(0), 60);
        span.cut(Some(at(-100)), 10, 10);
        span.cut(Some(at(-50)), 9, 10);
        assert_eq!(span.complete_since, at(-100));
    }
}
