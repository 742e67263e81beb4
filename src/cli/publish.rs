//! `finalizer publish`: publishes the events of files to RabbitMQ, each confirmed.

use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;

use crate::config::BrokerSettings;
use crate::intake::amqp::{AmqpSettings, HOLD_AT_MOST, Publisher, Unconfirmed};

use super::output::OutputSettings;
use super::{Stop, files, output};

/// `finalizer publish`
#[derive(Args)]
pub(super) struct PublishCommand {
    /// JSON or NDJSON (`.ndjson`, `.jsonl`) files; `-` is NDJSON from standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    broker: BrokerSettings,
    #[command(flatten)]
    output: OutputSettings,
}

impl PublishCommand {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        let settings = AmqpSettings {
            url: self.broker.required_url()?.to_owned(),
            prefetch: 1,
            is_declaring: !self.broker.no_declare,
            hold_at_most: HOLD_AT_MOST,
        };
        files::require(&self.files)?;
        let mut publisher = Publisher::connect(&settings).await?;
        let bar = files::progress(&self.files);
        let (mut sent, mut failed) = (0, 0);
        for event in files::events(&self.files) {
            let event = event?;
            sent += 1;
            bar.inc(event.bytes.len() as u64);
            failed += tell(&bar, &publisher.publish(event).await?);
        }
        failed += tell(&bar, &publisher.finish().await?);
        bar.finish_and_clear();
        self.print(sent - failed, failed)?;
        if failed > 0 { Err(Stop::SomeFailed) } else { Ok(()) }
    }

    fn print(&self, confirmed: usize, failed: usize) -> Result<(), Stop> {
        if self.output.json {
            return output::data(&json!({ "confirmed": confirmed, "failed": failed }));
        }
        let row = [confirmed, failed].map(|count| count.to_string());
        output::table(["confirmed", "failed"], std::iter::once(row))
    }
}

/// Tells of events that the broker did not take; how many.
fn tell(bar: &ProgressBar, unconfirmed: &[Unconfirmed]) -> usize {
    for Unconfirmed { source, reason } in unconfirmed {
        files::tell(bar, source, reason);
    }
    unconfirmed.len()
}
