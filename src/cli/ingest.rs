//! `finalizer ingest`: finalizes the events of files, beside a running server or without one.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use futures_util::{StreamExt as _, stream};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::SystemClock;
use crate::config::{
    AddressSettings, EventSettings, PlaceSettings, PriceSettings, StoreSettings,
};
use crate::event::{self, Event, Rejection};
use crate::finalize::{self, PriceBook, Session};
use crate::intake::{Disposition, Intake, IntakeParts, Patience, RawEvent};

use super::files::{self, Batches};
use super::output::OutputSettings;
use super::{Stop, open, output};

/// Batches on their way to the store at once: one is written while the next is read.
const BATCHES_IN_FLIGHT: usize = 4;

/// `finalizer ingest`
#[derive(Args)]
pub(super) struct IngestCommand {
    /// JSON or NDJSON (`.ndjson`, `.jsonl`) files; `-` is NDJSON from standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Check the events and print their sessions; write nothing, need no database
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

/// What became of all events.
#[derive(Default, Serialize)]
struct Summary {
    events: u64,
    finalized: u64,
    accepted: u64,
    duplicates: u64,
    failed: u64,
}

impl IngestCommand {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        let prices = open::prices(&self.prices)?;
        let batches = files::batches(&self.files)?;
        if self.dry_run { self.try_out(batches, &prices) } else { self.take(batches, prices).await }
    }
}
