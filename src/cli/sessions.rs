//! `finalizer sessions`: what a customer would read, and the end of it.

use clap::{Args, Subcommand};
use uuid::Uuid;

use crate::clock::{Clock as _, SystemClock};
use crate::config::{PlaceSettings, StoreSettings};
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
    /// Erase one session everywhere: transcript, usage, webhooks' bodies, failures, the recording
    ///
    /// What stays is its id, its owner and its digests, so that copies of its events are known and have
    /// no effect. It may run beside servers, and again: what it could not delete it tries then.
    Erase(EraseSession),
}

/// `finalizer sessions erase`
#[derive(Args)]
pub(super) struct EraseSession {
    /// The session's id
    #[arg(value_name = "SESSION")]
    session_id: Uuid,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    places: PlaceSettings,
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
            Self::Erase(command) => command.perform().await,
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

impl EraseSession {
    async fn perform(self) -> Result<(), Stop> {
        let places = open::places(&self.places)?;
        let store = open::store_to_read(&self.store).await?;
        let (session_id, now) = (self.session_id, SystemClock::default().now());
        let Some(files) = store.erase(session_id, &places.default_url(), now).await? else {
            output::remark(format!("There is no session {session_id}."));
            return Err(Stop::SomeFailed);
        };
        let mut left = Vec::new();
        for file in files {
            if let Err(error) = places.delete(&file).await {
                output::remark(format!("{file} is not deleted: {error}"));
                left.push(file);
            }
        }
        store.keep_files(session_id, &left).await?;
        if left.is_empty() { Ok(()) } else { Err(Stop::SomeFailed) }
    }
}
