//! `finalizer demo`: sample calls in, verified webhooks out, in a new temporary folder.

mod caller;
mod receiver;
mod samples;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use crate::api::{NewApiKey, new_api_key};
use crate::clock::{self, Clock as _, SystemClock};
use crate::config::{
    AccessSettings, AddressSettings, BrokerSettings, ConsumeSettings, EventSettings,
    LARGEST_EVENT_BYTES, LinkSettings, LivekitSettings, PlaceSettings, PriceSettings,
    RetentionSettings, Role, SecretSettings, SilenceSettings, StoreSettings, SweepSettings,
    TraceSettings, WebhookSettings,
};
use crate::courier::{new_endpoint, new_secret};
use crate::shutdown;

use self::caller::Caller;
use self::receiver::Received;
use self::samples::Call;
use super::run::{self, RunSettings, Service};
use super::{Stop, output};

/// How long webhooks may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// `finalizer demo`
#[derive(Args)]
pub(super) struct DemoCommand {
    /// Exit when all is shown, instead of keeping the API up; takes a free port
    #[arg(long, conflicts_with = "listen")]
    once: bool,
    /// The address to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

/// The demo's own installation.
struct Stage {
    service: Service,
    url: String,
    /// Reads the sessions of the sample calls' owner.
    customer_key: String,
    /// Sends events.
    worker_key: String,
    received: UnboundedReceiver<Received>,
}

impl DemoCommand {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        let folder = tempfile::Builder::new().prefix("finalizer-demo-").tempdir()?;
        let address = if self.once { (Ipv4Addr::LOCALHOST, 0).into() } else { self.listen };
        let listener = run::listen(address).await?;
        let shutdown = shutdown::on_signal()?;
        let calls = samples::calls();
        let mut stage = Stage::build(folder.path(), listener, &calls, shutdown.clone()).await?;
        let is_good = stage.play(&calls, folder.path()).await?;
        if self.once {
            shutdown.cancel();
        } else {
            stage.invite(&calls, folder.path())?;
        }
        stage.service.wait().await?;
        if is_good { Ok(()) } else { Err(Stop::SomeFailed) }
    }
}

impl Stage {
    /// An installation in this folder, with two keys and one subscriber.
    async fn build(
        folder: &Path,
        listener: TcpListener,
        calls: &[Call],
        shutdown: CancellationToken,
    ) -> Result<Self, Stop> {
        let address = listener.local_addr()?;
        let settings = settings(folder, address);
        let service = Service::start(&settings, listener, shutdown).await?;
        let url = format!("http://{address}");
        let owner = calls.iter().find_map(Call::owner).unwrap_or_default();
        let customer_key = new_key(&service, owner, false).await?;
        let worker_key = new_key(&service, owner, true).await?;
        let customer = Caller::new(&url, &customer_key);
        let received = subscribe(&service, customer, owner).await?;
        Ok(Self { service, url, customer_key, worker_key, received })
    }

    /// Sends the calls and shows what became of them. `false`: something went wrong.
    async fn play(&mut self, calls: &[Call], folder: &Path) -> Result<bool, Stop> {
        let worker = Caller::new(&self.url, &self.worker_key);
        for call in calls {
            send(&worker, &call.event).await?;
        }
        let recording = samples::record(&calls[0], &folder.join("recordings"))?;
        send(&worker, &recording).await?;

        let webhooks = self.webhooks(calls.len() + 1).await;
        let customer = Caller::new(&self.url, &self.customer_key);
        let mut rows = Vec::new();
        for call in calls {
            rows.push(Row::of(call, &customer, &webhooks).await?);
        }
        output::table(Row::COLUMNS, rows.iter().map(Row::cells))?;
        let is_played = self.show_recording(&customer, &calls[0]).await?;
        Ok(is_played && webhooks.len() > calls.len() && rows.iter().all(Row::is_good))
    }

    /// Waits for so many webhooks, but not for ever.
    async fn webhooks(&mut self, count: usize) -> Vec<Received> {
        let mut webhooks = Vec::new();
        let all = async {
            while webhooks.len() < count
                && let Some(received) = self.received.recv().await
            {
                webhooks.push(received);
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            output::remark(format!("Not all {count} webhooks came within {PATIENCE:?}."));
        }
        webhooks
    }

    /// Plays the beginning of the recording from its signed URL, as a customer's page would.
    async fn show_recording(&self, customer: &Caller, call: &Call) -> Result<bool, Stop> {
        let session = customer.session(call.session_id()).await?.unwrap_or_default();
        let url = session["recording_presigned_url"].as_str().unwrap_or_default();
        let is_played = match customer.first_bytes(url).await {
            Ok(bytes) => bytes.as_ref() == b"RIFF",
            Err(error) => {
                output::remark(format!("The recording cannot be played: {error:#}."));
                false
            }
        };
        output::line(format!("The recording's signed URL plays: {}", yes(is_played)))?;
        Ok(is_played)
    }

    /// What to try next, to be copied into another terminal.
    fn invite(&self, calls: &[Call], folder: &Path) -> Result<(), Stop> {
        let Self { url, customer_key, worker_key, .. } = self;
        let (session_id, folder) = (calls[0].session_id(), folder.display());
        let program = std::env::args().next().unwrap_or_default();
        output::line(format!(
            r#"
The API stays up until Ctrl-C. The console is at {url}/: sign in with one of these keys. In another
terminal:

  export API={url}
  export KEY={customer_key}
  export STAFF_KEY={worker_key}
  export SESSION={session_id}
  export FINALIZER_DATABASE_URL=sqlite://{folder}/finalizer.db

  curl -s $API/api/billing/sessions/$SESSION/ -H "X-API-Key: $KEY"
  curl -s $API/api/events/ -H "X-API-Key: $STAFF_KEY" -d '{{"type": "session.ended"}}'
  {program} failures list"#
        ))
    }
}

/// What a sample call became.
struct Row {
    title: &'static str,
    session: Value,
    /// The published library accepted the webhook's signature.
    is_verified: bool,
    /// The API showed the session when the webhook arrived.
    is_readable: bool,
}

impl Row {
    const COLUMNS: [&'static str; 7] =
        ["call", "turns", "transcript", "cost in USD", "recording", "verified", "readable"];

    async fn of(call: &Call, customer: &Caller, webhooks: &[Received]) -> Result<Self, Stop> {
        let session = customer.session(call.session_id()).await?.unwrap_or_default();
        let mut told = webhooks.iter().filter(|webhook| webhook.session_id == call.session_id());
        let is_told = told.clone().any(|webhook| webhook.event_type == "session.finalized");
        Ok(Self {
            title: call.title,
            session,
            is_verified: is_told && told.clone().all(|webhook| webhook.is_verified),
            is_readable: is_told && told.all(|webhook| webhook.is_readable),
        })
    }

    fn cells(&self) -> [String; 7] {
        let text = self.session["transcript_text"].as_str().unwrap_or_default();
        [
            self.title.to_owned(),
            output::field(&self.session, "turn_count"),
            format!("{} characters", text.chars().count()),
            output::field(&self.session, "estimated_cost_usd"),
            output::field(&self.session, "recording_status"),
            yes(self.is_verified).to_owned(),
            yes(self.is_readable).to_owned(),
        ]
    }

    fn is_good(&self) -> bool {
        self.is_verified && self.is_readable && !self.session.is_null()
    }
}

fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "NO" }
}

/// Not parsed: what is set for another installation must not reach this one.
fn settings(folder: &Path, listen: SocketAddr) -> RunSettings {
    let folder = folder.display();
    RunSettings {
        roles: vec![Role::Deliver, Role::Api],
        store: StoreSettings { database_url: format!("sqlite://{folder}/finalizer.db") },
        broker: BrokerSettings { amqp_url: None, no_declare: false },
        consume: ConsumeSettings { prefetch: 1 },
        events: EventSettings { max_event_bytes: LARGEST_EVENT_BYTES },
        prices: PriceSettings { prices: None },
        places: PlaceSettings { recordings: vec![format!("{folder}/recordings")] },
        links: LinkSettings { presign_lifetime: Duration::from_mins(15) },
        secrets: SecretSettings { secret_key: None, secret_key_file: None },
        address: AddressSettings { listen, public_url: None },
        access: AccessSettings::default(),
        webhooks: WebhookSettings {
            allow_private: vec![IpNet::from(IpAddr::from(Ipv4Addr::LOCALHOST))],
            allow_http: false,
        },
        sweep: SweepSettings { recording_deadline: Duration::from_mins(30) },
        silence: SilenceSettings { abandon_after: Duration::from_hours(6) },
        retention: RetentionSettings {
            failure_retention: Duration::from_hours(24),
            delivery_retention: Duration::from_hours(24),
        },
        livekit: LivekitSettings::default(),
        traces: TraceSettings::default(),
    }
}

async fn new_key(service: &Service, user: i64, is_staff: bool) -> Result<String, Stop> {
    let created_at = SystemClock::default().now();
    let name = if is_staff { "voice worker" } else { "customer" }.to_owned();
    let key_id = clock::new_id(created_at);
    let new = NewApiKey { key_id, name, user, is_staff, created_at };
    let (text, key) = new_api_key(clock::random_key(), new);
    service.store.add_api_key(&key).await?;
    Ok(text)
}

/// Starts a receiver and adds it as an endpoint.
async fn subscribe(
    service: &Service,
    customer: Caller,
    owner: i64,
) -> Result<UnboundedReceiver<Received>, Stop> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let url = receiver::url(listener.local_addr()?);
    let (secret, now) = (new_secret(), SystemClock::default().now());
    let endpoint = new_endpoint(&service.keyring, (url, Some(owner)), secret.clone(), now);
    service.store.add_endpoint(&endpoint).await?;
    Ok(receiver::start(listener, &secret.reveal(), customer)?)
}

async fn send(worker: &Caller, event: &Value) -> Result<(), Stop> {
    let answer = worker.send_event(event).await?;
    if answer["status"] == "failed" {
        return Err(anyhow::anyhow!("a sample was not taken: {}", answer["message"]).into());
    }
    Ok(())
}
