//! `finalizer failures replay`: failed events go through finalization again, beside a running server
//! or without one.
//!
//! The work is this command's own. What it has done is committed one by one, so when it is killed in
//! the middle the rest is still open, and the same command goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use clap::{ArgGroup, Args};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::api::{OutcomeData, TrialData};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{AddressSettings, EventSettings, PlaceSettings, PriceSettings, StoreSettings};
use crate::event::FailureCode;
use crate::finalize::Outcome;
use crate::intake::file::MAX_BYTES;
use crate::intake::{IntakeParts, NoDesk, Pace, ReplayOrder, Replayer};
use crate::shutdown;
use crate::store::{
    MOST_PER_SECOND, OpenFailures, Progress, REPLAYS_PER_SECOND, Refusal, SharedStore,
};

use super::super::output::OutputSettings;
use super::super::{Stop, open, output};
use super::{parse_code, parse_time};

/// Who replays and discards here.
pub(super) const BY: &str = "command line";
/// Failures that are looked up together.
const PAGE: u32 = 100;

/// `finalizer failures replay`
#[derive(Args)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(
    ["failures", "all", "code", "since", "until", "session", "character", "tenant"]
))]
pub(in crate::cli) struct ReplayCommand {
    /// These failures
    #[arg(value_name = "FAILURE", conflicts_with_all = [
        "all", "code", "since", "until", "session", "character", "tenant", "per_second"
    ])]
    failures: Vec<Uuid>,
    /// All that are open
    #[arg(long)]
    all: bool,
    /// All that are open and have this code, such as `too_large`
    #[arg(long, value_parser = parse_code)]
    code: Option<FailureCode>,
    /// All that are open and were last seen from then on
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<DateTime<Utc>>,
    /// And before then
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<DateTime<Utc>>,
    /// All that are open and about this session
    #[arg(long, value_name = "ID")]
    session: Option<Uuid>,
    /// All that are open and of this character
    #[arg(long, value_name = "SLUG")]
    character: Option<String>,
    /// All that are open and of this tenant
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Only tell what would become of each; write nothing
    #[arg(long)]
    dry_run: bool,
    /// Let an event with other content take the place of what its session was finalized from
    #[arg(long)]
    supersede: bool,
    /// Take this event in the place of the only failure's own, which is kept
    #[arg(long, value_name = "FILE")]
    with: Option<PathBuf>,
    /// At most so many a second [default: 200]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_PER_SECOND)))]
    per_second: Option<u32>,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    prices: PriceSettings,
    #[command(flatten)]
    places: PlaceSettings,
    #[command(flatten)]
    address: AddressSettings,
    #[command(flatten)]
    events: EventSettings,
    #[command(flatten)]
    output: OutputSettings,
}

/// What became of the failures.
struct Report {
    counts: Progress,
    /// Each, where each is told of.
    each: Vec<Value>,
    bar: ProgressBar,
}

impl ReplayCommand {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        let instead = self.read_instead()?;
        let now = SystemClock::default().now();
        let which = self.open_failures(now)?;
        let parts = self.parts().await?;
        let (store, stop) = (Arc::clone(&parts.store), shutdown::on_signal()?);
        let ending = CancellationToken::new();
        let replayer = Replayer::new(parts, ending.clone());
        let running = tokio::spawn(replayer.clone().run(false));
        let order = ReplayOrder {
            by: BY.into(),
            is_superseding: self.supersede,
            instead,
            is_named: !self.failures.is_empty(),
        };
        let walk = Walk { replayer, order, is_dry_run: self.dry_run, stop };
        let done = if self.failures.is_empty() {
            walk.all(&store, &which, self.per_second.unwrap_or(REPLAYS_PER_SECOND)).await
        } else {
            walk.named(&self.failures).await
        };
        ending.cancel();
        running.await.map_err(anyhow::Error::from)?;
        self.print(&done?)
    }

    async fn parts(&self) -> Result<IntakeParts, Stop> {
        Ok(IntakeParts {
            metrics: Arc::default(),
            prices: Arc::new(open::prices(&self.prices)?),
            public_url: self.address.public_url()?,
            recordings_place: open::places(&self.places)?.default_url(),
            // There are no failures in a database that is not there.
            store: open::store_to_read(&self.store).await?,
            clock: Arc::new(SystemClock::default()),
            // The deliveries are the running server's to make, or the next one's.
            desk: Arc::new(NoDesk),
            max_event_bytes: self.events.max_event_bytes,
        })
    }

    fn open_failures(&self, now: DateTime<Utc>) -> Result<OpenFailures, Stop> {
        let all = OpenFailures::all(now);
        let since = self.since.unwrap_or(all.since);
        let until = self.until.unwrap_or(all.until);
        if since >= until {
            return Err(Stop::Usage("--until must be after --since".to_owned()));
        }
        Ok(OpenFailures {
            code: self.code,
            session_id: self.session,
            character_slug: self.character.clone(),
            tenant_id: self.tenant.clone(),
            since,
            until,
            end: all.end,
        })
    }

    fn read_instead(&self) -> Result<Option<Bytes>, Stop> {
        let Some(path) = &self.with else { return Ok(None) };
        if self.failures.len() != 1 {
            let sentence = "--with takes the place of one failure's event: name one failure";
            return Err(Stop::Usage(sentence.to_owned()));
        }
        let bytes = read_file(path).map_err(|error| {
            Stop::Usage(format!("--with: {} cannot be read: {error}", path.display()))
        })?;
        Ok(Some(bytes.into()))
    }

    fn print(&self, report: &Report) -> Result<(), Stop> {
        let Progress { finalized, accepted, duplicates, failed, skipped, .. } = report.counts;
        if self.output.json {
            output::data(&json!({
                "dry_run": self.dry_run,
                "finalized": finalized,
                "accepted": accepted,
                "duplicates": duplicates,
                "failed": failed,
                "skipped": skipped,
                "failures": report.each,
            }))?;
        } else {
            if !report.each.is_empty() {
                self.print_each(&report.each)?;
                output::line("")?;
            }
            let row = [finalized, accepted, duplicates, failed, skipped];
            output::table(
                ["finalized", "accepted", "duplicates", "failed", "skipped"],
                std::iter::once(row.map(|count| count.to_string())),
            )?;
        }
        if failed + skipped > 0 { Err(Stop::SomeFailed) } else { Ok(()) }
    }

    fn print_each(&self, each: &[Value]) -> Result<(), Stop> {
        let title = if self.dry_run { "would be" } else { "is" };
        let rows = each.iter().map(|one| {
            let [id, outcome, code] =
                ["id", "outcome", "code"].map(|name| output::field(one, name));
            let told = ["pointer", "message"].map(|name| output::field(one, name)).join("  ");
            [id, outcome, code, told.trim_start().to_owned()]
        });
        output::table(["failure", title, "code", "what to change"], rows)?;
        for one in each {
            let differences = one["differences"].as_array().into_iter().flatten();
            for found in differences {
                let [field, stored, event] =
                    ["field", "stored", "event"].map(|name| output::field(found, name));
                let id = output::field(one, "id");
                let line = format!("{id}  {field}: stored {stored:?}, event {event:?}");
                output::line(output::plain(&line))?;
            }
        }
        Ok(())
    }
}

/// One event, `-` is standard input. Of a longer one than may be taken no more than tells that.
fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;

    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// How failures are gone through.
struct Walk {
    replayer: Replayer,
    order: ReplayOrder,
    is_dry_run: bool,
    stop: CancellationToken,
}

impl Walk {
    async fn named(&self, failures: &[Uuid]) -> Result<Report, Stop> {
        let mut report = Report::new(u64::try_from(failures.len()).ok());
        for failure_id in failures {
            if self.stop.is_cancelled() {
                report.tell("Stopped: those that are not told of are as they were.");
                break;
            }
            let told = self.one(*failure_id, &mut report).await?;
            report.each.push(told);
        }
        report.bar.finish_and_clear();
        Ok(report)
    }

    async fn all(
        &self,
        store: &SharedStore,
        which: &OpenFailures,
        per_second: u32,
    ) -> Result<Report, Stop> {
        let count = store.count_open_failures(which).await?;
        let mut report = Report::new(count.and_then(|count| u64::try_from(count).ok()));
        let mut pace = Pace::new(per_second);
        'all: loop {
            let after = report.counts.last_failure;
            let next = store.open_failures(which, after, PAGE).await?;
            if next.is_empty() {
                break;
            }
            for failure_id in next {
                if self.stop.run_until_cancelled(pace.wait()).await.is_none() {
                    report.tell("Stopped: the same command goes on.");
                    break 'all;
                }
                let told = self.one(failure_id, &mut report).await?;
                if self.is_dry_run {
                    report.each.push(told);
                } else {
                    report.tell_of(&told);
                }
            }
        }
        report.bar.finish_and_clear();
        Ok(report)
    }

    /// Replays one, or tries it out; what is told of it.
    async fn one(&self, failure_id: Uuid, report: &mut Report) -> Result<Value, Stop> {
        let told = if self.is_dry_run {
            let trial = self.replayer.dry_run(failure_id, &self.order).await?;
            trial.map(|trial| (output::value(&TrialData::from(&trial)), trial.outcome))
        } else {
            let replayed = self.replayer.replay(failure_id, self.order.clone()).await?;
            replayed.map(|outcome| (output::value(&OutcomeData::from(&outcome)), outcome))
        };
        let (mut told, outcome) = match told {
            Ok((told, outcome)) => (told, Some(outcome)),
            Err(refusal) => (refused(&refusal), None),
        };
        report.count(failure_id, outcome.as_ref());
        told["id"] = json!(failure_id);
        Ok(told)
    }
}

fn refused(refusal: &Refusal) -> Value {
    json!({ "outcome": "skipped", "code": refusal.as_str(), "message": refusal.to_string() })
}

impl Report {
    fn new(count: Option<u64>) -> Self {
        let (bar, template) = match count {
            Some(count) => (ProgressBar::new(count), "{bar:40} {pos} of {len}, {eta} left"),
            None => (ProgressBar::no_length(), "{spinner} {pos}  {elapsed}"),
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the templates are constants"));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { counts: Progress::default(), each: Vec::new(), bar }
    }

    fn count(&mut self, failure_id: Uuid, outcome: Option<&Outcome>) {
        let step = match outcome {
            Some(outcome) => Progress::of(outcome, failure_id),
            None => Progress::skipped(failure_id),
        };
        self.counts.add(&step);
        self.bar.inc(1);
    }

    /// Tells of one that came to nothing.
    fn tell_of(&self, told: &Value) {
        let [id, code, pointer, message] =
            ["id", "code", "pointer", "message"].map(|name| output::field(told, name));
        if !code.is_empty() {
            let pointer = if pointer.is_empty() { pointer } else { format!("{pointer}  ") };
            self.tell(&format!("{id}  {code}  {pointer}{message}"));
        }
    }

    /// A line above the bar.
    fn tell(&self, line: &str) {
        self.bar.suspend(|| output::remark(output::plain(line)));
    }
}
