//! `finalizer sessions reprice`: the present price book, for what was used already.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::config::{PriceSettings, StoreSettings};
use crate::finalize::{Bill, Dollars, PriceBook, Repriced, UsageKind, UsageLine};
use crate::store::{HistoryFilter, SharedStore};

use super::output::OutputSettings;
use super::{Stop, open, output};

/// Sessions that are read in one question, and changed in one transaction: workers that want one of
/// them wait for it.
const AT_ONCE: u32 = 200;
/// Models without a price that are named at the end: publishers may make up as many as they like.
const MOST_NAMED: usize = 50;

/// `finalizer sessions reprice`
#[derive(Args)]
pub(super) struct RepriceCommand {
    /// These sessions
    #[arg(value_name = "SESSION", required_unless_present = "since")]
    sessions: Vec<Uuid>,
    /// All sessions that were finalized from then on
    #[arg(long, value_name = "TIME", conflicts_with = "sessions", value_parser = super::parse_time)]
    since: Option<DateTime<Utc>>,
    /// Only tell what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    prices: PriceSettings,
    #[command(flatten)]
    output: OutputSettings,
}

impl RepriceCommand {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        let prices = open::prices(&self.prices)?;
        let store = open::store_to_read(&self.store).await?;
        let mut work = Work {
            store,
            prices,
            is_dry: self.dry_run,
            bar: ProgressBar::no_length(),
            ledger: Ledger::new(self.output.json),
            tally: Tally::default(),
        };
        work.ledger.begin()?;
        match self.since {
            Some(since) => work.walk(since).await?,
            None => work.named(&self.sessions).await?,
        }
        work.ledger.end(&work.tally, work.is_dry)?;
        if work.tally.failed > 0 { Err(Stop::SomeFailed) } else { Ok(()) }
    }
}

/// The work, and how far it has come.
struct Work {
    store: SharedStore,
    prices: PriceBook,
    is_dry: bool,
    bar: ProgressBar,
    ledger: Ledger,
    tally: Tally,
}

impl Work {
    /// Takes all sessions in the order of their ids, which never change: each comes once, whatever
    /// happens to it meanwhile.
    async fn walk(&mut self, since: DateTime<Utc>) -> Result<(), Stop> {
        self.bar = self.progress().await;
        let mut next = Some(Uuid::nil());
        while let Some(from) = next {
            let found = self.store.bills(since, from, AT_ONCE).await?;
            self.bar.inc(found.looked_at);
            self.settle(found.bills).await?;
            next = found.next;
        }
        self.bar.finish_and_clear();
        Ok(())
    }

    /// A bar on a terminal; nothing elsewhere, for counting takes a while.
    async fn progress(&self) -> ProgressBar {
        let bar = ProgressBar::no_length();
        if bar.is_hidden() {
            return bar;
        }
        let totals = self.store.history_totals(&HistoryFilter::default()).await;
        let all = totals.ok().and_then(|totals| u64::try_from(totals.sessions).ok());
        let (bar, template) = match all {
            Some(all) => (ProgressBar::new(all), "{bar:40} {pos} of {len} sessions, {eta} left"),
            None => (bar, "{spinner} {pos} sessions  {elapsed}"),
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the templates are constants"));
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    async fn named(&mut self, sessions: &[Uuid]) -> Result<(), Stop> {
        let mut seen = HashSet::new();
        let sessions: Vec<Uuid> = sessions.iter().copied().filter(|id| seen.insert(*id)).collect();
        for sessions in sessions.chunks(AT_ONCE as usize) {
            let bills = self.read(sessions).await?;
            self.settle(bills).await?;
        }
        Ok(())
    }

    async fn read(&mut self, sessions: &[Uuid]) -> Result<Vec<Bill>, Stop> {
        let mut bills = Vec::with_capacity(sessions.len());
        for session_id in sessions {
            let Some(session) = self.store.session(*session_id).await? else {
                self.fail(&format!("There is no session {session_id}."));
                continue;
            };
            match Bill::of(session) {
                Some(bill) => bills.push(bill),
                None => self.fail(&format!(
                    "The session {session_id} is in progress: it gets its cost when it ends."
                )),
            }
        }
        Ok(bills)
    }

    /// Gives each its cost by the book. What somebody else changed between the reading and the
    /// writing is read again: nothing of theirs is lost, and they have come further.
    async fn settle(&mut self, mut bills: Vec<Bill>) -> Result<(), Stop> {
        self.tally.looked_at += bills.len();
        while !bills.is_empty() {
            let changes = self.changes(bills);
            let written = if self.is_dry {
                changes.iter().map(|change| change.bill.session_id).collect()
            } else {
                self.store.reprice(&changes).await?
            };
            let written: HashSet<Uuid> = written.into_iter().collect();
            let (done, overtaken): (Vec<_>, Vec<_>) =
                changes.into_iter().partition(|change| written.contains(&change.bill.session_id));
            for change in &done {
                self.tally.count(change);
            }
            self.bar.suspend(|| done.iter().try_for_each(|change| self.ledger.add(change)))?;
            let overtaken: Vec<Uuid> =
                overtaken.iter().map(|change| change.bill.session_id).collect();
            bills = self.read(&overtaken).await?;
        }
        Ok(())
    }

    /// Those whose cost is another one by the book.
    fn changes(&mut self, bills: Vec<Bill>) -> Vec<Repriced> {
        let mut changes = Vec::new();
        for bill in bills {
            let session_id = bill.session_id;
            match bill.reprice(&self.prices) {
                Ok(repriced) if repriced.is_changed() => changes.push(repriced),
                Ok(repriced) => self.tally.name(&repriced.unpriced),
                Err(error) => {
                    self.fail(&format!(
                        "The usage of the session {session_id} cannot be read, its cost stays as \
                         it is: {error}"
                    ));
                }
            }
        }
        changes
    }

    fn fail(&mut self, sentence: &str) {
        self.tally.failed += 1;
        self.bar.suspend(|| output::remark(sentence));
    }
}

/// What came of it.
#[derive(Default)]
struct Tally {
    looked_at: usize,
    changed: usize,
    failed: usize,
    /// Of those that changed.
    old_micros: i64,
    /// Of those that changed.
    new_micros: i64,
    /// Of all that were looked at: in how many sessions each was used.
    unpriced: BTreeMap<(UsageKind, String, String), u64>,
    /// There are more than are named.
    has_unnamed: bool,
}

impl Tally {
    fn count(&mut self, change: &Repriced) {
        self.changed += 1;
        self.old_micros = self.old_micros.saturating_add(change.old.micros);
        self.new_micros = self.new_micros.saturating_add(change.bill.cost.micros);
        self.name(&change.unpriced);
    }

    fn name(&mut self, unpriced: &[UsageLine]) {
        for UsageLine { kind, provider, model, amounts: _ } in unpriced {
            let key = (*kind, provider.clone(), model.clone());
            let is_room = self.unpriced.len() < MOST_NAMED;
            if is_room || self.unpriced.contains_key(&key) {
                *self.unpriced.entry(key).or_default() += 1;
            } else {
                self.has_unnamed = true;
            }
        }
    }

    fn shown(&self, is_dry: bool) -> Value {
        let unpriced = self.unpriced.iter().map(|((kind, provider, model), sessions)| {
            json!({ "kind": kind, "provider": provider, "model": model, "sessions": sessions })
        });
        json!({
            "dry_run": is_dry,
            "looked_at": self.looked_at,
            "changed": self.changed,
            "failed": self.failed,
            "old_cost_usd": Dollars(self.old_micros),
            "new_cost_usd": Dollars(self.new_micros),
            "unpriced": unpriced.collect::<Vec<_>>(),
        })
    }

    fn sentences(&self, is_dry: bool) -> String {
        let Self { looked_at, changed, old_micros, new_micros, .. } = self;
        let change = if is_dry { "would change" } else { "changed" };
        let (old, new) = (Dollars(*old_micros), Dollars(*new_micros));
        let mut text = format!(
            "Sessions looked at: {looked_at}. Those that {change}: {changed}, from {old} to {new} USD \
             in all.\n"
        );
        for ((kind, provider, model), sessions) in &self.unpriced {
            let name = output::plain(&name(*kind, provider, model));
            let _ = writeln!(text, "The price book has no price for {name}: sessions: {sessions}");
        }
        if self.has_unnamed {
            text += "It has none for others, too.\n";
        }
        text
    }
}

fn name(kind: UsageKind, provider: &str, model: &str) -> String {
    [kind.as_str(), provider, model].join(" ").trim_end().to_owned()
}

/// Prints each change when it has happened: there may be more than fit into memory.
struct Ledger {
    is_json: bool,
    is_begun: bool,
    is_unread: bool,
}

impl Ledger {
    fn new(is_json: bool) -> Self {
        Self { is_json, is_begun: false, is_unread: false }
    }

    fn begin(&mut self) -> Result<(), Stop> {
        if self.is_json { self.print("{\"data\": {\"sessions\": [") } else { Ok(()) }
    }

    fn add(&mut self, change: &Repriced) -> Result<(), Stop> {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        let text = match (self.is_json, is_first) {
            (true, true) => format!("\n{}", object(change)),
            (true, false) => format!(",\n{}", object(change)),
            (false, true) => head() + &row(change),
            (false, false) => row(change),
        };
        self.print(&text)
    }

    fn end(&mut self, tally: &Tally, is_dry: bool) -> Result<(), Stop> {
        if !self.is_json {
            return self.print(&tally.sentences(is_dry));
        }
        let shown = tally.shown(is_dry).to_string();
        let rest = shown.strip_prefix('{').unwrap_or_default();
        self.print(&format!("\n], {rest}}}\n"))
    }

    /// When nobody reads on, the work goes on: half of it would be worse than none.
    fn print(&mut self, text: &str) -> Result<(), Stop> {
        if self.is_unread {
            return Ok(());
        }
        match output::bytes(text.as_bytes()) {
            Err(Stop::Unread) => {
                self.is_unread = true;
                Ok(())
            }
            printed => printed,
        }
    }
}

fn object(change: &Repriced) -> Value {
    let Repriced { bill, old, unpriced } = change;
    let unpriced = unpriced
        .iter()
        .map(|line| json!({ "kind": line.kind, "provider": line.provider, "model": line.model }));
    json!({
        "session_id": bill.session_id,
        "old_cost_usd": Dollars(old.micros),
        "new_cost_usd": Dollars(bill.cost.micros),
        "unpriced": unpriced.collect::<Vec<_>>(),
    })
}

fn row(change: &Repriced) -> String {
    let Repriced { bill, old, unpriced } = change;
    let names = unpriced.iter().map(|line| name(line.kind, &line.provider, &line.model));
    let names = output::plain(&names.collect::<Vec<_>>().join(", "));
    let costs = [old.micros, bill.cost.micros].map(|micros| Dollars(micros).to_string());
    columns(&bill.session_id.to_string(), costs.each_ref().map(String::as_str), &names)
}

fn head() -> String {
    let [id, cost, names] = [36, 12, 15].map(|width| "─".repeat(width));
    columns("session", ["old cost", "new cost"], "without a price")
        + &columns(&id, [&cost; 2], &names)
}

fn columns(session: &str, [old, new]: [&str; 2], names: &str) -> String {
    let row = format!(" {session:<36}  {old:>12}  {new:>12}  {names}");
    format!("{}\n", row.trim_end())
}
