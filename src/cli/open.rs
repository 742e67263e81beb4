//! What commands open before they begin: the store, the installation's key, the price book.

use crate::config::{KeySource, PriceSettings, SecretSettings, StoreSettings};
use crate::finalize::PriceBook;
use crate::secrets::Keyring;
use crate::store::{self, OpenMode, SharedStore};

use super::Stop;

/// The store, for a command that writes: SQLite is made when it is not there.
pub(super) async fn store_to_write(settings: &StoreSettings) -> Result<SharedStore, Stop> {
    settings.check()?;
    open(settings, OpenMode::Create).await
}

/// The store, for a command that only reads: never makes a database.
pub(super) async fn store_to_read(settings: &StoreSettings) -> Result<SharedStore, Stop> {
    settings.check()?;
    if let Some(file) = settings.sqlite_file().filter(|file| !file.exists()) {
        let looked_at = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        return Err(Stop::Absent(format!(
            "there is no database at {}: name another with --database-url, or start one with \
             `finalizer run`",
            looked_at.display()
        )));
    }
    open(settings, OpenMode::Existing).await
}

async fn open(settings: &StoreSettings, mode: OpenMode) -> Result<SharedStore, Stop> {
    store::open(&settings.database_url, mode).await.map_err(|error| Stop::Absent(error.to_string()))
}

/// The installation's key.
pub(super) fn keyring(
    settings: &SecretSettings,
    store: &StoreSettings,
) -> Result<Keyring, Stop> {
    match settings.source(store)? {
        KeySource::Text(text) => {
            Keyring::parse(&text).map_err(|error| Stop::Usage(format!("--secret-key: {error}")))
        }
        KeySource::File(path) => {
            let shown = path.display();
            let text = std::fs::read_to_string(&path).map_err(|error| {
                Stop::Usage(format!("--secret-key-file: {shown} cannot be read: {error}"))
            })?;
            Keyring::parse(&text)
                .map_err(|error| Stop::Usage(format!("--secret-key-file: {shown}: {error}")))
        }
        KeySource::Made(path) => {
            Keyring::load_or_create(&path).map_err(|error| Stop::Absent(error.to_string()))
        }
    }
}

/// The price book.
pub(super) fn prices(settings: &PriceSettings) -> Result<PriceBook, Stop> {
    let Some(path) = settings.file() else { return Ok(PriceBook::builtin()) };
    let wrong = |error: &dyn std::fmt::Display| {
        Stop::Usage(format!("--prices: {} is no price book: {error}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    PriceBook::parse(&text).map_err(|error| wrong(&error))
}
