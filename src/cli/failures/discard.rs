//! `finalizer failures discard`: says that failures do not matter.

use clap::Args;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::clock::{Clock as _, SystemClock};
use crate::config::StoreSettings;

use super::super::output::OutputSettings;
use super::super::{Stop, open, output};
use super::replay::BY;

/// `finalizer failures discard`
#[derive(Args)]
pub(in crate::cli) struct DiscardFailures {
    /// These failures; if their events come again, they are open again
    #[arg(value_name = "FAILURE", required = true)]
    failures: Vec<Uuid>,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    output: OutputSettings,
}

impl DiscardFailures {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        let store = open::store_to_read(&self.store).await?;
        let mut discarded = Vec::new();
        for failure_id in &self.failures {
            let now = SystemClock::default().now();
            match store.discard_failure(*failure_id, BY, now).await? {
                Ok(()) => discarded.push(json!(failure_id)),
                Err(refusal) => output::remark(format!("{failure_id}  {refusal}")),
            }
        }
        let is_each = discarded.len() == self.failures.len();
        if self.output.json {
            output::data(&Value::Array(discarded))?;
        } else {
            output::line(format!("Discarded: {}", discarded.len()))?;
        }
        if is_each { Ok(()) } else { Err(Stop::SomeFailed) }
    }
}
