//! What commands open before they begin: the store, the installation's key, the price book, …

use std::time::Duration;

use crate::config::{
    KeySource, PlaceSettings, PriceSettings, SecretSettings, StoreSettings, WebhookSettings,
};
use crate::courier::Guard;
use crate::finalize::PriceBook;
use crate::recordings::{Places, PlacesSettings};
use crate::secrets::Keyring;
use crate::store::{self, OpenMode, SharedStore};

use super::Stop;

/// The store, for a command that writes: SQLite is made when it is not there.
pub(super) async fn store_to_write(settings: &StoreSettings) -> Result<SharedStore, Stop> {
    settings.check()?;
    Ok(store::open(&settings.database_url, OpenMode::Create).await?)
}

/// The store, for a command that only reads: never makes a database.
pub(super) async fn store_to_read(settings: &StoreSettings) -> Result<SharedStore, Stop> {
    settings.check()?;
    Ok(store::open(&settings.database_url, OpenMode::Existing).await?)
}

/// The installation's key.
pub(super) fn keyring(settings: &SecretSettings, store: &StoreSettings) -> Result<Keyring, Stop> {
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

/// The installation's key, for a command that can do without: nothing is made, and with Postgres
/// it need not be given.
pub(super) fn known_keyring(
    settings: &SecretSettings,
    store: &StoreSettings,
) -> Result<Option<Keyring>, Stop> {
    let is_known = settings.source(store).is_ok_and(|source| match source {
        KeySource::Made(path) => path.exists(),
        KeySource::Text(_) | KeySource::File(_) => true,
    });
    if is_known { keyring(settings, store).map(Some) } else { Ok(None) }
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

/// The recordings places, for a command that signs no links to them.
pub(super) fn places(settings: &PlaceSettings) -> Result<Places, Stop> {
    let settings = PlacesSettings {
        places: &settings.recordings,
        public_url: "http://localhost",
        link_key: [0; 32],
        link_lifetime: Duration::from_secs(1),
    };
    Places::new(&settings).map_err(|error| Stop::Usage(format!("--recordings: {error}")))
}

/// Where webhooks may go.
pub(super) fn guard(settings: &WebhookSettings) -> Guard {
    Guard { allow: settings.allow_private.clone(), allow_http: settings.allow_http }
}
