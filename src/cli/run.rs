//! `finalizer run`: puts the parts together, and keeps them running until it is told to stop.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use clap::Args;
use clap::builder::BoolishValueParser;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::api::{self, ApiState, Authenticator, LivekitKey, Origins, Probes, Webhooks};
use crate::clock::SystemClock;
use crate::config::{
    AccessSettings, AddressSettings, BrokerSettings, ConsumeSettings, DEFAULT_RECORDINGS,
    EventSettings, LinkSettings, LivekitSettings, PlaceSettings, PriceSettings, RetentionSettings,
    Role, SecretSettings, SilenceSettings, StoreSettings, SweepSettings, TraceSettings,
    WebhookSettings,
};
use crate::courier::{
    self, Client, ClientOptions, Courier, CourierDied, CourierParts, LONGEST_ATTEMPT,
};
use crate::finalize::PriceBook;
use crate::health::Health;
use crate::intake::amqp::{self, AmqpSettings, HOLD_AT_MOST};
use crate::intake::{
    self, Intake, IntakeDied, IntakeParts, IntakeWatch, NoDesk, Replayer, SilenceParts,
    SilenceSweep, WatchParts,
};
use crate::metrics::Metrics;
use crate::recordings::{Places, PlacesSettings, Sweep, SweepParts};
use crate::retention::Retention;
use crate::secrets::Keyring;
use crate::shutdown::{self, Tasks};
use crate::spans::{self, Export};
use crate::store::{self, Owed, SharedStore};

use super::{Stop, open};

/// `finalizer run`
#[derive(Args)]
pub(super) struct RunCommand {
    /// Bring the database to this release's layout first; SQLite always is
    #[arg(long, env = "FINALIZER_MIGRATE", value_parser = BoolishValueParser::new())]
    migrate: bool,
    #[command(flatten)]
    settings: RunSettings,
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
    #[command(flatten)]
    pub(super) sweep: SweepSettings,
    #[command(flatten)]
    pub(super) silence: SilenceSettings,
    #[command(flatten)]
    pub(super) retention: RetentionSettings,
    #[command(flatten)]
    pub(super) livekit: LivekitSettings,
    #[command(flatten)]
    pub(super) traces: TraceSettings,
}

impl RunCommand {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        let mut settings = self.settings;
        settings.check()?;
        settings.make_default_folder()?;
        warn_of_few_files();
        let shutdown = shutdown::on_signal()?;
        if self.migrate {
            store::migrate(&settings.store.database_url).await?;
        }
        let listener = listen(settings.address.listen).await?;
        // Port 0 is any free port: links must name the one it became.
        settings.address.listen = listener.local_addr()?;
        let export = settings.export()?;
        let ran = Service::start(&settings, listener, shutdown).await?.wait().await;
        if let Some(export) = export {
            export.finish().await;
        }
        ran
    }
}

impl RunSettings {
    fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The broker's URL, if this process is to consume from it.
    fn consumed(&self) -> Option<&str> {
        self.broker.url().filter(|_| self.has(Role::Consume))
    }

    /// Judges what can be judged before anything is made or asked.
    fn check(&self) -> Result<(), Stop> {
        self.store.check()?;
        self.broker.check()?;
        self.address.public_url()?;
        self.livekit.key()?;
        if self.roles == [Role::Consume] && self.consumed().is_none() {
            let sentence = "with --roles consume alone there is nothing to do without --amqp-url";
            return Err(Stop::Usage(sentence.to_owned()));
        }
        Ok(())
    }

    /// Makes the recordings folder that nobody chose. A folder that somebody chose must be there:
    /// it may be a disk that is not mounted yet.
    fn make_default_folder(&self) -> Result<(), Stop> {
        if !self.places.recordings.iter().any(|place| place == DEFAULT_RECORDINGS) {
            return Ok(());
        }
        std::fs::create_dir_all(DEFAULT_RECORDINGS).map_err(|error| {
            Stop::Absent(format!("cannot make the folder {DEFAULT_RECORDINGS}: {error}"))
        })
    }

    fn authenticator(&self) -> Result<Authenticator, Stop> {
        let pem = match self.access.public_key_file() {
            Some(path) => Some(std::fs::read(path).map_err(|error| {
                Stop::Usage(format!("--jwt-public-key: {} cannot be read: {error}", path.display()))
            })?),
            None => None,
        };
        let own = Authenticator::new(self.access.secret(), pem.as_deref());
        let all = own.and_then(|own| match self.access.jwks_url() {
            Some(url) => own.with_published(url),
            None => Ok(own),
        });
        all.map_err(|error| Stop::Usage(error.to_string()))
    }

    /// The export of spans, if somebody collects them.
    fn export(&self) -> Result<Option<Export>, Stop> {
        let Some(endpoint) = self.traces.endpoint() else { return Ok(None) };
        let tls = courier::tls(Vec::new()).config().as_ref().clone();
        spans::start(endpoint, tls)
            .map(Some)
            .map_err(|error| Stop::Usage(format!("--otlp-endpoint: {error}")))
    }

    fn places(&self, public_url: &str, keyring: &Keyring) -> Result<Places, Stop> {
        let settings = PlacesSettings {
            places: &self.places.recordings,
            public_url,
            link_key: keyring.derive("recordings"),
            link_lifetime: self.links.presign_lifetime,
        };
        Places::new(&settings).map_err(|error| Stop::Usage(format!("--recordings: {error}")))
    }
}

/// Webhooks in flight, database connections, the API's own: with fewer files than this a busy
/// process fails where it need not.
const FILES_WANTED: u64 = 4096;

/// Warns at the start if the process may open too few files.
fn warn_of_few_files() {
    // Only Linux has this file.
    let Ok(limits) = std::fs::read_to_string("/proc/self/limits") else { return };
    if let Some(files) = soft_file_limit(&limits)
        && files < FILES_WANTED
    {
        tracing::warn!(
            "only {files} files may be open, too few for a busy process: raise the limit to \
             {FILES_WANTED} (`ulimit -n {FILES_WANTED}`, or LimitNOFILE in a unit of systemd)"
        );
    }
}

/// The soft limit of open files, from the text of `/proc/self/limits`; `None` if unlimited.
fn soft_file_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Seals with the present key what an earlier one sealed, so that the earlier one can be dropped.
async fn reseal(store: &SharedStore, keyring: &Keyring) -> Result<(), Stop> {
    let mut count = 0;
    for endpoint in store.endpoints(None).await? {
        match courier::reseal(keyring, &endpoint) {
            Ok(None) => {}
            Ok(Some(resealed)) => count += i32::from(store.change_endpoint(&resealed).await?),
            Err(error) => tracing::error!(
                endpoint.id = %endpoint.endpoint_id,
                "no webhook goes to this endpoint, its secret cannot be opened: {error}"
            ),
        }
    }
    if count > 0 {
        tracing::info!("{count} endpoints are sealed with the present key now");
    }
    Ok(())
}

/// Binds the API's address.
pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener, Stop> {
    TcpListener::bind(address).await.map_err(|error| {
        Stop::Absent(format!("cannot listen on {address}: {error}; choose another with --listen"))
    })
}

/// A running process.
pub(super) struct Service {
    /// Where everything is kept.
    pub(super) store: SharedStore,
    /// The installation's key.
    pub(super) keyring: Keyring,
    tasks: Tasks,
}

/// What the parts share, and the tasks they become.
struct Parts<'a> {
    settings: &'a RunSettings,
    public_url: String,
    store: SharedStore,
    keyring: Keyring,
    places: Arc<Places>,
    clock: Arc<SystemClock>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    tasks: Tasks,
}

/// Ends the next stage when it is dropped for the last time.
type Bringing = Arc<DropGuard>;

impl Service {
    /// Starts all parts that the roles ask for; on the listener the API, or probes alone. They end
    /// when `shutdown` is cancelled, and cancel it when one of them dies.
    ///
    /// They end as events travel: first consumer and API, then intake, with what these gave it,
    /// and last the courier, which takes deliveries as long as there is an intake.
    pub(super) async fn start(
        settings: &RunSettings,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<Self, Stop> {
        let prices = open::prices(&settings.prices)?;
        let authenticator = settings.authenticator()?;
        let origins = Origins::parse(&settings.access.cors_origin)
            .map_err(|error| Stop::Usage(format!("--cors-origin: {error}")))?;
        let keyring = open::keyring(&settings.secrets, &settings.store)?;
        let public_url = settings.address.public_url()?;
        let mut parts = Parts {
            settings,
            places: Arc::new(settings.places(&public_url, &keyring)?),
            public_url,
            store: open::store_to_write(&settings.store).await?,
            keyring,
            clock: Arc::default(),
            health: Arc::default(),
            metrics: Arc::default(),
            tasks: Tasks::new(shutdown.clone()),
            shutdown,
        };
        reseal(&parts.store, &parts.keyring).await?;
        let takes_events = settings.consumed().is_some() || settings.has(Role::Api);
        let stop_courier =
            if takes_events { CancellationToken::new() } else { parts.shutdown.clone() };
        let desk = parts.start_courier(stop_courier.clone());
        let intake =
            takes_events.then(|| parts.start_intake(prices, desk, stop_courier.drop_guard()));
        let bringing = intake.as_ref().map(|intake| Arc::new(intake.closing()));
        let replayer =
            intake.as_ref().zip(bringing.clone()).map(|intake| parts.start_replayer(intake));
        parts.start_sweep();
        if let Some(intake) = &intake {
            parts.start_silence_sweep(intake.clone());
        }
        parts.start_consumer(intake.clone().zip(replayer.clone()), bringing.clone());
        let probes = parts.probes(intake.clone());
        if settings.has(Role::Api) {
            let takers = (intake, replayer, bringing);
            parts.start_api((listener, probes), takers, authenticator, origins);
        } else {
            parts.start_probes(listener, probes);
        }
        Ok(Self { store: parts.store, keyring: parts.keyring, tasks: parts.tasks })
    }

    /// Waits until every part has ended.
    pub(super) async fn wait(self) -> Result<(), Stop> {
        self.tasks.wait().await.map_err(|died| Stop::Broken(died.into()))
    }
}

impl Parts<'_> {
    /// The courier, if this process delivers, and where intake hands deliveries in.
    fn start_courier(&mut self, stop: CancellationToken) -> Arc<dyn intake::Desk> {
        if !self.settings.has(Role::Deliver) {
            return Arc::new(NoDesk);
        }
        let guard = Arc::new(open::guard(&self.settings.webhooks));
        let courier = Courier::new(CourierParts {
            store: Arc::clone(&self.store),
            clock: self.clock.clone(),
            system_clock: Some(Arc::clone(&self.clock)),
            keyring: self.keyring.clone(),
            client: Client::new(guard, ClientOptions::default()),
            longest_attempt: LONGEST_ATTEMPT,
            public_url: self.public_url.as_str().into(),
            metrics: Arc::clone(&self.metrics),
        });
        let desk = courier.desk();
        let shutdown = self.shutdown.clone();
        self.tasks.spawn("courier", async move {
            courier.run(stop).await?;
            shutdown.cancelled().await;
            Ok::<_, CourierDied>(())
        });
        desk
    }

    /// The sweep over recordings, beside those who deliver: it tells what nobody else tells, and
    /// needs the recordings, which a process that only consumes never touches.
    fn start_sweep(&mut self) {
        if !self.settings.has(Role::Deliver) {
            return;
        }
        let sweep = Sweep::new(SweepParts {
            store: Arc::clone(&self.store),
            clock: self.clock.clone(),
            places: Arc::clone(&self.places),
            public_url: self.public_url.clone(),
            deadline: self.settings.sweep.recording_deadline,
            metrics: Arc::clone(&self.metrics),
        });
        let shutdown = self.shutdown.clone();
        self.tasks.spawn("sweep over recordings", async move {
            sweep.run(shutdown).await;
            Ok::<_, Infallible>(())
        });
    }

    /// The sweep over silent calls, beside those who take events: they know whether any may be
    /// waiting.
    fn start_silence_sweep(&mut self, intake: Intake) {
        let watch = IntakeWatch::new(WatchParts {
            store: Arc::clone(&self.store),
            clock: self.clock.clone(),
            intake,
            is_consuming: self.settings.consumed().is_some(),
        });
        let sweep = SilenceSweep::new(SilenceParts {
            store: Arc::clone(&self.store),
            clock: self.clock.clone(),
            public_url: self.public_url.clone(),
            recordings_place: self.places.default_url(),
            abandon_after: self.settings.silence.abandon_after,
        });
        let shutdown = self.shutdown.clone();
        self.tasks.spawn("sweep over silent calls", async move {
            tokio::join!(watch.run(shutdown.clone()), sweep.run(shutdown));
            Ok::<_, Infallible>(())
        });
    }

    /// The intake, which keeps the courier going.
    fn start_intake(
        &mut self,
        prices: PriceBook,
        desk: Arc<dyn intake::Desk>,
        handing_over: DropGuard,
    ) -> Intake {
        let parts = IntakeParts {
            store: Arc::clone(&self.store),
            clock: self.clock.clone(),
            prices: Arc::new(prices),
            public_url: self.public_url.clone(),
            recordings_place: self.places.default_url(),
            desk,
            max_event_bytes: self.settings.events.max_event_bytes,
            metrics: Arc::clone(&self.metrics),
        };
        let (intake, batches) = Intake::new(parts, self.shutdown.clone());
        let shutdown = self.shutdown.clone();
        self.tasks.spawn("intake", async move {
            let _handing_over = handing_over;
            batches.await?;
            // Whoever brought events may have died: then that is what has happened.
            shutdown.cancelled().await;
            Ok::<_, IntakeDied>(())
        });
        intake
    }

    /// Replays failures beside the intake, in its way, and forgets what is old. It keeps the
    /// courier going as whoever brings events does, until what is under way has ended.
    fn start_replayer(&mut self, (intake, bringing): (&Intake, Bringing)) -> Replayer {
        let replayer = Replayer::new(intake.parts().clone(), self.shutdown.clone());
        let running = replayer.clone();
        self.tasks.spawn("replays", async move {
            let _bringing = bringing;
            running.run(true).await;
            Ok::<_, Infallible>(())
        });
        let retention = Retention {
            store: Arc::clone(&self.store),
            clock: self.clock.clone(),
            failures: self.settings.retention.failure_retention,
            deliveries: self.settings.retention.delivery_retention,
        };
        let shutdown = self.shutdown.clone();
        self.tasks.spawn("retention", async move {
            retention.run(shutdown).await;
            Ok::<_, Infallible>(())
        });
        replayer
    }

    /// The consumer, if there is a broker to consume from.
    fn start_consumer(&mut self, takers: Option<(Intake, Replayer)>, bringing: Option<Bringing>) {
        let (Some(url), Some(takers)) = (self.settings.consumed(), takers) else { return };
        let settings = AmqpSettings {
            url: url.to_owned(),
            prefetch: self.settings.consume.prefetch,
            is_declaring: !self.settings.broker.no_declare,
            hold_at_most: HOLD_AT_MOST,
        };
        let (health, shutdown) = (Arc::clone(&self.health), self.shutdown.clone());
        self.tasks.spawn("consumer", async move {
            let _bringing = bringing;
            amqp::run(settings, takers, health, shutdown).await
        });
    }

    fn probes(&self, intake: Option<Intake>) -> Probes {
        let (store, clock) = (Arc::clone(&self.store), self.clock.clone());
        let (health, metrics) = (Arc::clone(&self.health), Arc::clone(&self.metrics));
        Probes::new(store, clock, health, intake, metrics)
    }

    fn start_probes(&mut self, listener: TcpListener, probes: Probes) {
        let address = self.settings.address.listen;
        tracing::info!(probes.url = format!("http://{address}"), "probes are answered");
        let shutdown = self.shutdown.clone();
        self.tasks.spawn("probes", async move {
            api::run_probes(listener, probes, shutdown.cancelled_owned()).await;
            Ok::<_, Infallible>(())
        });
    }

    fn start_api(
        &mut self,
        (listener, probes): (TcpListener, Probes),
        (intake, replayer, bringing): (Option<Intake>, Option<Replayer>, Option<Bringing>),
        authenticator: Authenticator,
        origins: Origins,
    ) {
        let guard = Arc::new(open::guard(&self.settings.webhooks));
        let key = self.settings.livekit.key().ok().flatten();
        let state = ApiState {
            store: Arc::clone(&self.store),
            clock: self.clock.clone(),
            authenticator: Arc::new(authenticator),
            public_url: self.public_url.as_str().into(),
            places: Arc::clone(&self.places),
            keyring: self.keyring.clone(),
            webhooks: Arc::new(Webhooks::new(
                Arc::clone(&guard),
                Client::new(guard, ClientOptions::default()),
            )),
            intake,
            replayer,
            livekit: key.map(|(key, secret)| Arc::new(LivekitKey::new(key, secret))),
            probes,
            origins,
        };
        tracing::info!(api.url = self.public_url, "the API is up");
        let shutdown = self.shutdown.clone();
        self.tasks.spawn("API", async move {
            let _bringing = bringing;
            api::run(listener, state, shutdown.cancelled_owned()).await;
            Ok::<_, Infallible>(())
        });
    }
}

impl intake::Desk for courier::Desk {
    fn accept(&self, owed: Vec<Owed>) {
        self.accept(owed);
    }
}

#[cfg(test)]
mod tests {
    use super::soft_file_limit;

    #[test]
    fn the_soft_limit_of_open_files_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             63000                63000                processes\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(soft_file_limit(limits), Some(1024));
        assert_eq!(soft_file_limit("Max open files  unlimited  unlimited  files"), None);
        assert_eq!(soft_file_limit(""), None);
    }
}
