//! `finalizer ingest`: finalizes the events of files, beside a running server or without one.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::{Clock as _, SystemClock};
use crate::config::{AddressSettings, EventSettings, PlaceSettings, PriceSettings, StoreSettings};
use crate::event::Rejection;
use crate::finalize::{self, Erased, Outcome, PriceBook, Snapshot, session_data};
use crate::intake::{self, Disposition, Intake, IntakeParts, NoDesk, Patience, Ticket};

use super::output::OutputSettings;
use super::{Stop, files, open, output};

/// `finalizer ingest`
#[derive(Args)]
pub(super) struct IngestCommand {
    /// JSON or NDJSON (`.ndjson`, `.jsonl`) files; `-` is NDJSON from standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Check each event by itself and print its session; write nothing, need no database
    #[arg(long)]
    dry_run: bool,
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

/// What became of the events.
#[derive(Default)]
struct Tally {
    finalized: u64,
    accepted: u64,
    duplicates: u64,
    failed: u64,
}

impl IngestCommand {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        let prices = open::prices(&self.prices)?;
        files::require(&self.files)?;
        if self.dry_run { self.try_out(&prices) } else { self.take(prices).await }
    }

    async fn take(&self, prices: PriceBook) -> Result<(), Stop> {
        let shutdown = CancellationToken::new();
        let (intake, batches) = Intake::new(self.parts(prices).await?, shutdown);
        let batches = tokio::spawn(batches);
        let bar = files::progress(&self.files);
        let tally = self.feed(&intake, &bar).await?;
        drop(intake);
        batches.await.map_err(anyhow::Error::from)?.map_err(anyhow::Error::from)?;
        bar.finish_and_clear();
        tally.print(self.output)?;
        tally.verdict()
    }

    async fn parts(&self, prices: PriceBook) -> Result<IntakeParts, Stop> {
        Ok(IntakeParts {
            metrics: Arc::default(),
            public_url: self.address.public_url()?,
            recordings_place: open::places(&self.places)?.default_url(),
            store: open::store_to_write(&self.store).await?,
            clock: Arc::new(SystemClock::default()),
            prices: Arc::new(prices),
            // The deliveries are the running server's to make, or the next one's.
            desk: Arc::new(NoDesk),
            max_event_bytes: self.events.max_event_bytes,
        })
    }

    /// Puts all events on their way, as fast as they are taken, and counts the answers.
    async fn feed(&self, intake: &Intake, bar: &ProgressBar) -> Result<Tally, Stop> {
        let mut tally = Tally::default();
        let mut sources = HashMap::new();
        let (answers, mut answered) = mpsc::unbounded_channel();
        for (token, event) in (0..).zip(files::events(&self.files)) {
            let event = event?;
            bar.inc(event.bytes.len() as u64);
            sources.insert(token, Arc::clone(&event.source));
            let prepared = intake.prepare(event);
            let answers = answers.clone();
            intake.submit(Ticket { prepared, patience: Patience::Wait, token, answers }).await;
            while let Ok(answers) = answered.try_recv() {
                tally.count_all(bar, &mut sources, answers);
            }
        }
        drop(answers);
        while let Some(answers) = answered.recv().await {
            tally.count_all(bar, &mut sources, answers);
        }
        Ok(tally)
    }
}

impl IngestCommand {
    /// Takes each event by itself into an empty world.
    fn try_out(&self, prices: &PriceBook) -> Result<(), Stop> {
        let place = open::places(&self.places)?.default_url();
        let public_url = self.address.public_url()?;
        let now = SystemClock::default().now();
        let bar = files::progress(&self.files);
        let (mut tally, mut sessions) = (Tally::default(), Vec::new());
        for event in files::events(&self.files) {
            let event = event?;
            bar.inc(event.bytes.len() as u64);
            let source = Arc::clone(&event.source);
            let event = intake::prepare(event, prices, self.events.max_event_bytes, now);
            let world = Snapshot {
                now,
                installation: Uuid::nil(),
                public_url: &public_url,
                place: &place,
                sessions: BTreeMap::new(),
                egresses: BTreeMap::new(),
                checkpoints: BTreeMap::new(),
                rooms: BTreeMap::new(),
                erased: &Erased::default(),
                numbers: vec![0],
                endpoints: &[],
            };
            let plan = finalize::plan(world, std::slice::from_ref(&event));
            sessions.extend(plan.sessions.iter().map(|session| session_data(session, None)));
            for outcome in &plan.outcomes {
                tally.count_outcome(&bar, &source, outcome);
            }
        }
        bar.finish_and_clear();
        self.print_sessions(&sessions)?;
        tally.verdict()
    }

    fn print_sessions(&self, sessions: &[Box<RawValue>]) -> Result<(), Stop> {
        self.output.list(
            sessions,
            ["session", "character", "turns", "seconds", "cost in USD", "recording", "began"],
            |session| {
                let session = serde_json::from_str(session.get()).unwrap_or_default();
                [
                    "session_id",
                    "character_slug",
                    "turn_count",
                    "session_duration_seconds",
                    "estimated_cost_usd",
                    "recording_status",
                    "created_at",
                ]
                .map(|name| output::field(&session, name))
            },
            "There are no sessions in these files.",
        )
    }
}

impl Tally {
    fn count_all(
        &mut self,
        bar: &ProgressBar,
        sources: &mut HashMap<u64, Arc<str>>,
        answers: Vec<(u64, Disposition)>,
    ) {
        for (token, disposition) in answers {
            self.count(bar, &sources.remove(&token).unwrap_or_default(), &disposition);
        }
    }

    fn count(&mut self, bar: &ProgressBar, source: &str, disposition: &Disposition) {
        match disposition {
            Disposition::Done { is_finalized: true, .. } => self.finalized += 1,
            Disposition::Done { is_finalized: false, .. } => self.accepted += 1,
            Disposition::Duplicate { .. } => self.duplicates += 1,
            Disposition::Rejected { rejection, .. } => self.fail(bar, source, rejection),
            Disposition::Retry => {
                self.failed += 1;
                files::tell(bar, source, "was not taken: ingest it again");
            }
        }
    }

    fn count_outcome(&mut self, bar: &ProgressBar, source: &str, outcome: &Outcome) {
        match outcome {
            Outcome::Finalized(_) => self.finalized += 1,
            Outcome::Accepted(_) => self.accepted += 1,
            Outcome::Duplicate(_) => self.duplicates += 1,
            Outcome::Failed { rejection, .. } => self.fail(bar, source, rejection),
        }
    }

    fn fail(&mut self, bar: &ProgressBar, source: &str, rejection: &Rejection) {
        self.failed += 1;
        files::tell_rejection(bar, source, rejection);
    }

    fn print(&self, output: OutputSettings) -> Result<(), Stop> {
        let Self { finalized, accepted, duplicates, failed } = self;
        if output.json {
            return output::data(&json!({
                "finalized": finalized,
                "accepted": accepted,
                "duplicates": duplicates,
                "failed": failed,
            }));
        }
        let row = [finalized, accepted, duplicates, failed].map(ToString::to_string);
        output::table(["finalized", "accepted", "duplicates", "failed"], std::iter::once(row))
    }

    fn verdict(&self) -> Result<(), Stop> {
        if self.failed > 0 { Err(Stop::SomeFailed) } else { Ok(()) }
    }
}
