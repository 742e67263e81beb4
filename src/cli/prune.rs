//! `finalizer prune`: forgets at once what servers forget in time.

use std::sync::Arc;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;

use crate::clock::SystemClock;
use crate::config::{RetentionSettings, StoreSettings};
use crate::retention::Retention;
use crate::store::Pruned;

use super::output::OutputSettings;
use super::{Stop, open, output};

/// `finalizer prune`
#[derive(Args)]
pub(super) struct PruneCommand {
    /// Only say what would be forgotten; of failures nothing is said
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    retention: RetentionSettings,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    output: OutputSettings,
}

impl PruneCommand {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        let retention = Retention {
            store: open::store_to_read(&self.store).await?,
            clock: Arc::new(SystemClock::default()),
            failures: self.retention.failure_retention,
            deliveries: self.retention.delivery_retention,
        };
        let bar = ProgressBar::new_spinner();
        let tell = |pruned: &Pruned| bar.set_message(format!("{} webhooks", pruned.messages));
        let pruned = retention.prune(self.dry_run, tell).await;
        bar.finish_and_clear();
        let Pruned { messages, deliveries, attempts } = pruned?;
        let failures = if self.dry_run { None } else { Some(retention.drop_failures().await?) };
        if self.output.json {
            return output::data(&json!({
                "dry_run": self.dry_run,
                "messages": messages,
                "deliveries": deliveries,
                "attempts": attempts,
                "failures": failures,
            }));
        }
        let is = if self.dry_run { "would be forgotten" } else { "forgotten" };
        output::line(format!(
            "Webhooks that ended long ago and are {is}: {messages}, with {deliveries} deliveries and \
             {attempts} attempts."
        ))?;
        match failures {
            Some(failures) => {
                output::line(format!("Failures whose bytes are dropped: {failures}."))
            }
            None => Ok(()),
        }
    }
}
