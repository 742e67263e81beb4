//! `finalizer run`: puts the parts together, and keeps them running until it is told to stop.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use clap::builder::BoolishValueParser;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::{self, ApiState, Authenticator, Origins};
use crate::clock::{Clock, SystemClock};
use crate::config::{
    AccessSettings, AddressSettings, BrokerSettings, ConsumeSettings, EventSettings, LinkSettings,
    PlaceSettings, PriceSettings, Role, SecretSettings, StoreSettings, WebhookSettings,
};
use crate::courier::{ATTEMPT_DEADLINE, Client, ClientOptions, Courier, CourierParts, Desk};
use crate::health::Health;
use crate::intake::amqp::{self, AmqpSettings};
use crate::intake::{self, Intake, IntakeParts, NoDesk};
use crate::recordings::{Places, PlacesSettings};
use crate::secrets::Keyring;
use crate::shutdown::{self, Tasks};
use crate::store::{self, Owed, SharedStore};

use super::{Stop, open};

/// `finalizer run`
#[derive(Args)]
pub(super) struct RunCommand {
    #[command(flatten)]
    settings: RunSettings,
    /// Bring the database to this release's layout first; SQLite always is
    #[arg(long, env = "FINALIZER_MIGRATE", value_parser = BoolishValueParser::new())]
    migrate: bool,
}

/// Everything that a running process is told.
#[derive(Args)]
pub(super) struct RunSettings {
    /// What this process does
    #[arg(long, env = "FINALIZER_ROLES", value_name = "ROLES", value_enum, value_delimiter = ',')]
    #[arg(default_value = "consume,deliver,api")]
    pub(super) roles: Vec<Role>,
    #[command(flatten)]
    pub(super) store: StoreSettings,
    #[command(flatten)]
    pub(super) broker: BrokerSettings,
    #[command(flatten)]
    pub(super) consume: ConsumeSettings,
    #[command(flatten)]
    pub(super) events: EventSettings,
    #[command(flatten)]
    pub(super) prices: PriceSettings,
    #[command(flatten)]
    pub(super) places: PlaceSettings,
    #[command(flatten)]
    pub(super) links: LinkSettings,
    #[command(flatten)]
    pub(super) secrets: SecretSettings,
    #[command(flatten)]
    pub(super) address: AddressSettings,
    #[command(flatten)]
    pub(super) access: AccessSettings,
    #[command(flatten)]
    pub(super) webhooks: WebhookSettings,
}

impl RunCommand {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        let shutdown = shutdown::on_signal()?;
        if self.migrate {
            self.settings.store.check()?;
            store::migrate(&self.settings.store.database_url).await?;
        }
        Service::start(&self.settings, shutdown).await?.wait().await
    }
}

/// A running process.
pub(super) struct Service {
    /// Where everything is kept.
    pub(super) store: SharedStore,
    /// The installation's key.
    pub(super) keyring: Keyring,
    tasks: Tasks,
}

/// What the parts share.
struct Common<'a> {
    settings: &'a RunSettings,
    store: SharedStore,
    keyring: Keyring,
    clock: Arc<SystemClock>,
    places: Arc<Places>,
    public_url: String,
    health: Arc<Health>,
    shutdown: CancellationToken,
}

impl Service {
    /// Starts all parts that the roles ask for. They end when `shutdown` is cancelled, and cancel
    /// it when one of them dies.
    pub(super) async fn start(
        settings: &RunSettings,
        shutdown: CancellationToken,
    ) -> Result<Self, Stop> {
        let has = |role| settings.roles.contains(&role);
        // What can be wrong with settings is found before anything is made or asked.
        let prices = open::prices(&settings.prices)?;
        let api = has(Role::Api).then(|| Access::of(&settings.access)).transpose()?;
        settings.broker.check()?;
        settings.store.check()?;
        let public_url = settings.address.public_url()?;
        let keyring = open::keyring(&settings.secrets, &settings.store)?;
        let places = Arc::new(places(settings, &public_url, &keyring)?);

        let store = open::store_to_write(&settings.store).await?;
        let common = Common {
            settings,
            store: Arc::clone(&store),
            keyring: keyring.clone(),
            clock: Arc::default(),
            places,
            public_url,
            health: Arc::default(),
            shutdown: shutdown.clone(),
        };
        let mut tasks = Tasks::new(shutdown);
        let desk = common.start_courier(&mut tasks, has(Role::Deliver));
        let intake = common.start_intake(&mut tasks, Arc::new(prices), desk);
        if has(Role::Consume) {
            common.start_consumer(&mut tasks, &intake);
        }
        if let Some(access) = api {
            common.start_api(&mut tasks, access, intake).await?;
        }
        Ok(Self { store, keyring, tasks })
    }

    /// Waits until every part has ended.
    pub(super) async fn wait(self) -> Result<(), Stop> {
        self.tasks.wait().await.map_err(|died| Stop::Broken(died.into()))
    }
}
