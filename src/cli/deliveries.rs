//! `finalizer deliveries`: what became of webhooks, and sending them again.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::api::{DeliveryData, DeliveryStoryData, RedeliveryData};
use crate::clock::{self, Clock as _, SystemClock};
use crate::config::StoreSettings;
use crate::store::{
    Delivery, DeliveryFilter, DeliveryState, MOST_PER_SECOND, Redelivery, RedeliveryRange,
    RedeliveryState, SharedStore, Statuses,
};
use crate::webhook::MessageId;

use super::output::{LimitSettings, OutputSettings};
use super::{Stop, open, output, parse_time};

/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a redelivery may stand still before its watcher goes.
const PATIENCE: Duration = Duration::from_secs(10);

/// `finalizer deliveries …`
#[derive(Subcommand)]
pub(super) enum DeliveriesCommand {
    /// List deliveries, the newest first
    List(ListDeliveries),
    /// Print one delivery with its attempts
    Show(ShowDelivery),
    /// Send deliveries again: those named, or all of an endpoint's that did not arrive
    Redeliver(RedeliverCommand),
    /// List redeliveries of whole ranges, and how far they have come
    Redeliveries(ListRedeliveries),
}

/// `finalizer deliveries list`
#[derive(Args)]
pub(super) struct ListDeliveries {
    /// Only to this endpoint
    #[arg(long, value_name = "ENDPOINT")]
    endpoint: Option<Uuid>,
    /// Only of this session
    #[arg(long, value_name = "SESSION", conflicts_with = "message")]
    session: Option<Uuid>,
    /// Only of this message: its `webhook-id`
    #[arg(long, value_name = "MESSAGE", value_parser = parse_message)]
    message: Option<MessageId>,
    /// Only in this state: pending, delivered, exhausted or cancelled
    #[arg(long, value_name = "STATE", value_parser = parse_state)]
    status: Option<DeliveryState>,
    /// Only older ones than this delivery
    #[arg(long, value_name = "DELIVERY")]
    before: Option<Uuid>,
    #[command(flatten)]
    limit: LimitSettings,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    output: OutputSettings,
}

/// `finalizer deliveries show`
#[derive(Args)]
pub(super) struct ShowDelivery {
    /// The delivery's id
    #[arg(value_name = "DELIVERY")]
    delivery_id: Uuid,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    output: OutputSettings,
}

/// `finalizer deliveries redeliver`
#[derive(Args)]
pub(super) struct RedeliverCommand {
    /// These deliveries
    #[arg(value_name = "DELIVERY", required_unless_present = "endpoint")]
    deliveries: Vec<Uuid>,
    /// All deliveries to this endpoint that did not arrive
    #[arg(long, value_name = "ENDPOINT", conflicts_with = "deliveries")]
    endpoint: Option<Uuid>,
    /// Only those made from then on [default: all]
    #[arg(long, value_name = "TIME", requires = "endpoint", value_parser = parse_time)]
    since: Option<DateTime<Utc>>,
    /// And before then [default: now]
    #[arg(long, value_name = "TIME", requires = "endpoint", value_parser = parse_time)]
    until: Option<DateTime<Utc>>,
    /// Only some of: exhausted, cancelled, missing (the endpoint was never owed it)
    #[arg(long, value_name = "STATES", requires = "endpoint", value_delimiter = ',')]
    status: Vec<String>,
    /// At most so many a second [default: 200]
    #[arg(long, value_name = "N", requires = "endpoint")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_PER_SECOND)))]
    per_second: Option<u32>,
    /// Only tell how many there are
    #[arg(long, requires = "endpoint")]
    dry_run: bool,
    /// Leave the work to a running server instead of waiting until it is done
    #[arg(long, requires = "endpoint")]
    detach: bool,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    output: OutputSettings,
}

/// `finalizer deliveries redeliveries`
#[derive(Args)]
pub(super) struct ListRedeliveries {
    /// Only to this endpoint
    #[arg(long, value_name = "ENDPOINT")]
    endpoint: Option<Uuid>,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    output: OutputSettings,
}

impl DeliveriesCommand {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        match self {
            Self::List(command) => command.perform().await,
            Self::Show(command) => command.perform().await,
            Self::Redeliver(command) => command.perform().await,
            Self::Redeliveries(command) => command.perform().await,
        }
    }
}

impl ListDeliveries {
    async fn perform(self) -> Result<(), Stop> {
        let store = open::store_to_read(&self.store).await?;
        let deliveries = self.find(&store).await?;
        let deliveries: Vec<Value> = deliveries
            .iter()
            .map(|delivery| output::value(&DeliveryData::from(delivery)))
            .collect();
        self.output.list(
            &deliveries,
            ["id", "type", "session", "endpoint", "attempts", "created", "next", "status"],
            |delivery| {
                let status = output::field(delivery, "status");
                let cause = output::field(delivery, "cause");
                [
                    output::field(delivery, "id"),
                    output::field(delivery, "type"),
                    output::field(delivery, "session_id"),
                    output::field(delivery, "endpoint_id"),
                    output::field(delivery, "attempts"),
                    output::cell(delivery, "created_at"),
                    output::cell(delivery, "next_attempt_at"),
                    if cause.is_empty() { status } else { format!("{status}: {cause}") },
                ]
            },
            "There are no such deliveries.",
        )
    }

    async fn find(&self, store: &SharedStore) -> Result<Vec<Delivery>, Stop> {
        let filter = DeliveryFilter {
            endpoint_id: self.endpoint,
            state: self.status,
            before: self.before,
            limit: self.limit.limit,
        };
        Ok(match (self.session, self.message) {
            (Some(session_id), _) => filter.apply(store.deliveries_of(session_id).await?),
            (None, Some(message_id)) => {
                filter.apply(store.deliveries_of_message(message_id).await?)
            }
            (None, None) => store.deliveries(&filter).await?,
        })
    }
}

impl ShowDelivery {
    async fn perform(self) -> Result<(), Stop> {
        let store = open::store_to_read(&self.store).await?;
        let Some(found) = store.delivery(self.delivery_id).await? else {
            output::remark(format!("There is no delivery {}.", self.delivery_id));
            return Err(Stop::SomeFailed);
        };
        let shown = DeliveryStoryData::new(&found, true);
        if self.output.json {
            return output::data(&shown);
        }
        let mut shown = output::value(&shown);
        let attempts = shown["attempts"].take();
        output::members(&shown)?;
        for attempt in attempts.as_array().into_iter().flatten() {
            output::line("")?;
            output::members(attempt)?;
        }
        Ok(())
    }
}

impl RedeliverCommand {
    async fn perform(self) -> Result<(), Stop> {
        let store = open::store_to_read(&self.store).await?;
        match self.endpoint {
            Some(endpoint_id) => self.redeliver_range(&store, endpoint_id).await,
            None => self.redeliver_named(&store).await,
        }
    }

    async fn redeliver_named(&self, store: &SharedStore) -> Result<(), Stop> {
        let now = SystemClock::default().now();
        let again = store.redeliver(&self.deliveries, now).await?;
        for left in self.deliveries.iter().filter(|id| !again.contains(id)) {
            output::remark(format!(
                "{left} is not sent again: there is no such delivery, it is being sent at this \
                 moment, or its endpoint is disabled or deleted."
            ));
        }
        if self.output.json {
            output::data(&again)?;
        } else {
            output::line(format!("On their way again: {}", again.len()))?;
        }
        if again.len() < self.deliveries.len() { Err(Stop::SomeFailed) } else { Ok(()) }
    }

    async fn redeliver_range(&self, store: &SharedStore, endpoint_id: Uuid) -> Result<(), Stop> {
        let (now, range) = (SystemClock::default().now(), self.range(endpoint_id)?);
        let Some(endpoint) = store.endpoint(endpoint_id).await? else {
            output::remark(format!("There is no endpoint {endpoint_id}."));
            return Err(Stop::SomeFailed);
        };
        let matched = store.count_range(&range).await?;
        if self.dry_run {
            return self.print(&json!({ "dry_run": true, "matched": matched }));
        }
        if endpoint.disabled.is_some() {
            let sentence = "the endpoint is disabled: `finalizer endpoints enable` it first";
            return Err(Stop::Usage(sentence.to_owned()));
        }
        let job = Redelivery::new(clock::new_id(now), range, self.per_second, matched, now);
        if !store.add_redelivery(&job).await? {
            output::remark(
                "Another redelivery to this endpoint runs: `finalizer deliveries redeliveries` \
                 tells how far it is.",
            );
            return Err(Stop::SomeFailed);
        }
        let job = if self.detach { job } else { watch(store, job).await? };
        self.print(&output::value(&RedeliveryData::from(&job)))?;
        if job.state == RedeliveryState::Cancelled { Err(Stop::SomeFailed) } else { Ok(()) }
    }

    fn range(&self, endpoint_id: Uuid) -> Result<RedeliveryRange, Stop> {
        let names = self.status.iter().map(String::as_str);
        let statuses =
            if self.status.is_empty() { Ok(Statuses::ALL) } else { Statuses::parse(names) };
        let statuses = statuses.map_err(|_| {
            Stop::Usage("--status takes exhausted, cancelled and missing".to_owned())
        })?;
        let since = self.since.unwrap_or(DateTime::UNIX_EPOCH);
        let until = self.until.unwrap_or_else(|| SystemClock::default().now());
        if since >= until {
            return Err(Stop::Usage("--until must be after --since".to_owned()));
        }
        Ok(RedeliveryRange { endpoint_id, since, until, statuses })
    }

    fn print(&self, shown: &Value) -> Result<(), Stop> {
        if self.output.json { output::data(shown) } else { output::members(shown) }
    }
}

/// Shows how far the redelivery comes, until it has ended, or nobody goes on with it. The work is
/// the servers': they know what stands in the bodies.
async fn watch(store: &SharedStore, mut job: Redelivery) -> Result<Redelivery, Stop> {
    let all = job.matched.and_then(|matched| u64::try_from(matched).ok());
    let bar = all.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} sent again, {eta} left");
    bar.set_style(style.map_err(anyhow::Error::from)?);
    let mut moved_at = Instant::now();
    while job.state == RedeliveryState::Running && moved_at.elapsed() < PATIENCE {
        // The servers do the work; here it is only watched.
        sleep(LOOK_EVERY).await;
        let known = store.redelivery(job.redelivery_id).await?;
        let known = known.ok_or_else(|| anyhow::anyhow!("the redelivery is gone"))?;
        if known.next_step_at != job.next_step_at {
            moved_at = Instant::now();
        }
        job = known;
        bar.set_position(u64::try_from(job.redelivered + job.skipped).unwrap_or(0));
    }
    bar.finish_and_clear();
    if job.state == RedeliveryState::Running {
        output::remark(
            "Nobody goes on with it: start `finalizer run` with the role `deliver`. `finalizer \
             deliveries redeliveries` tells how far it is.",
        );
    }
    Ok(job)
}

impl ListRedeliveries {
    async fn perform(self) -> Result<(), Stop> {
        let jobs = open::store_to_read(&self.store).await?.redeliveries(self.endpoint).await?;
        let jobs: Vec<Value> =
            jobs.iter().map(|job| output::value(&RedeliveryData::from(job))).collect();
        self.output.list(
            &jobs,
            ["id", "endpoint", "created", "matched", "redelivered", "skipped", "status"],
            |job| {
                [
                    output::field(job, "id"),
                    output::field(job, "endpoint_id"),
                    output::cell(job, "created_at"),
                    output::field(job, "matched"),
                    output::field(job, "redelivered"),
                    output::field(job, "skipped"),
                    output::field(job, "status"),
                ]
            },
            "There are no redeliveries yet.",
        )
    }
}

fn parse_state(text: &str) -> Result<DeliveryState, String> {
    let states = DeliveryState::ALL.map(DeliveryState::as_str).join(", ");
    DeliveryState::parse(text).ok_or_else(|| format!("expected one of {states}"))
}

fn parse_message(text: &str) -> Result<MessageId, String> {
    let id = MessageId::parse(text);
    id.ok_or_else(|| "expected a webhook-id: `msg_` and 32 hexadecimal digits".to_owned())
}
