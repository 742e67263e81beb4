//! `finalizer migrate`: brings the database to this release's layout.

use crate::config::StoreSettings;
use crate::store;

use super::{Stop, output};

/// `finalizer migrate`
#[derive(clap::Args)]
pub(super) struct MigrateCommand {
    #[command(flatten)]
    store: StoreSettings,
}

impl MigrateCommand {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        self.store.check()?;
        store::migrate(&self.store.database_url).await?;
        output::remark(format!("{} is ready for this release.", self.store.shown()));
        Ok(())
    }
}
