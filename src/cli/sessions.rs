//! `finalizer sessions`: what a customer would read.

use clap::{Args, Subcommand};
use uuid::Uuid;

use crate::config::StoreSettings;
use crate::finalize;

use super::output::OutputSettings;
use super::reprice::RepriceCommand;
use super::{Stop, open, output};

/// `finalizer sessions …`
#[derive(Subcommand)]
pub(super) enum SessionsCommand {
    /// Print one session: the API's `data`, as JSON, without a signed URL of the recording
    Show(ShowSession),
    /// Give finalized sessions the cost that their usage has by the present price book
    ///
    /// The new cost is a new version of the session, but no new revision: no webhook is sent. What
    /// costs the same is left alone, so a run that was interrupted can simply be run again.
    Reprice(RepriceCommand),
}

/// `finalizer sessions show`
#[derive(Args)]
pub(super) struct ShowSession {
    /// The session's id
    #[arg(value_name = "SESSION")]
    session_id: Uuid,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    output: OutputSettings,
}

impl SessionsCommand {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        match self {
            Self::Show(command) => command.perform().await,
            Self::Reprice(command) => command.perform().await,
        }
    }
}

impl ShowSession {
    async fn perform(self) -> Result<(), Stop> {
        let store = open::store_to_read(&self.store).await?;
        let Some(session) = store.session(self.session_id).await? else {
            output::remark(format!("There is no session {}.", self.session_id));
            return Err(Stop::SomeFailed);
        };
        let data = finalize::session_data(&session, None);
        if self.output.json { output::data(&data) } else { output::json(&data) }
    }
}
