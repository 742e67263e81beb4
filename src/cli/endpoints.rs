//! `finalizer endpoints`: who gets webhooks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::TimeDelta;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::EndpointData;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{SecretSettings, StoreSettings, WebhookSettings};
use crate::courier::{
    self, Answer, Client, ClientOptions, PostError, Posted, RotateError, new_endpoint, new_secret,
    seal_headers,
};
use crate::secrets::Keyring;
use crate::store::{BY_HAND, Endpoint, EndpointHealth, SharedStore};
use crate::webhook::{
    EventType, LONGEST_OVERLAP, MessageId, OwnHeaders, PayloadKind, Secret, check_rate_limit,
    check_timeout,
};

use super::output::OutputSettings;
use super::{Stop, open, output};

/// `finalizer endpoints …`
#[derive(Subcommand)]
pub(super) enum EndpointsCommand {
    /// Add an endpoint; its signing secret is shown once
    Add(AddEndpoint),
    /// List endpoints
    List(ListEndpoints),
    /// Print one endpoint
    Show(NamedEndpoint),
    /// Change what is given; everything else stays as it is
    Edit(EditEndpoint),
    /// Give an endpoint a new secret, which is shown once; the old one signs along for a while
    RotateSecret(RotateSecret),
    /// Send webhooks again; what was cancelled meanwhile can be redelivered
    Enable(NamedEndpoint),
    /// Send no more webhooks, and cancel what is still to be sent
    Disable(NamedEndpoint),
    /// POST an `endpoint.ping` once, from here, and tell what came back
    Ping(PingEndpoint),
    /// Delete an endpoint; what was sent to it stays on record
    Delete(NamedEndpoint),
}

/// `finalizer endpoints add`
#[derive(Args)]
pub(super) struct AddEndpoint {
    /// Where to POST
    #[arg(value_name = "URL")]
    url: String,
    /// Whose sessions it hears of: the id of the user who created the characters, or `all`
    #[arg(long, value_name = "ID|all", value_parser = parse_owner)]
    owner: Owner,
    /// A secret of your own, `whsec_…` [default: a new one]
    #[arg(long, value_name = "SECRET", value_parser = parse_secret)]
    secret: Option<Secret>,
    #[command(flatten)]
    manner: Manner,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    secrets: SecretSettings,
    #[command(flatten)]
    webhooks: WebhookSettings,
    #[command(flatten)]
    output: OutputSettings,
}

/// What an endpoint hears of, and how it wants to be called.
#[derive(Args)]
struct Manner {
    /// Only this tenant's sessions
    #[arg(long)]
    tenant: Option<String>,
    /// Only this character's sessions
    #[arg(long, value_name = "SLUG")]
    character: Option<String>,
    /// Only these types, such as `session.finalized,session.recording_ready` [default: all]
    #[arg(long, value_name = "TYPES", value_delimiter = ',', value_parser = parse_event_type)]
    events: Vec<EventType>,
    /// How much a body carries: `thin` (what happened, and where to read the rest) or `full`
    #[arg(long, value_name = "KIND", value_parser = parse_payload)]
    payload: Option<PayloadKind>,
    /// A header of every request, `NAME: VALUE`; repeatable. Values are sealed and never shown
    #[arg(long, value_name = "HEADER", value_parser = parse_header)]
    header: Vec<(String, String)>,
    /// How many seconds an attempt may take, 1 to 30 [default: 15]
    #[arg(long, value_name = "SECONDS", value_parser = parse_timeout)]
    timeout: Option<u32>,
    /// At most so many attempts a minute, over all processes [default: no limit]
    #[arg(long, value_name = "PER MINUTE", value_parser = parse_rate_limit)]
    rate_limit: Option<u32>,
}

impl Manner {
    /// The endpoint with what is given.
    fn apply(self, keyring: &Keyring, endpoint: &mut Endpoint) -> Result<(), Stop> {
        let Self { tenant, character, events, payload, header, timeout, rate_limit } = self;
        if tenant.is_some() {
            endpoint.tenant_id = tenant;
        }
        if character.is_some() {
            endpoint.character_slug = character;
        }
        if !events.is_empty() {
            endpoint.event_types = events;
        }
        if !header.is_empty() {
            let count = header.len();
            let header: BTreeMap<_, _> = header.into_iter().collect();
            if header.len() < count {
                return Err(Stop::Usage("--header: a header is there twice".to_owned()));
            }
            let headers = OwnHeaders::new(header);
            let headers = headers.map_err(|wrong| Stop::Usage(format!("--header: {wrong}")))?;
            endpoint.sealed_headers = seal_headers(keyring, &headers);
        }
        endpoint.payload = payload.unwrap_or(endpoint.payload);
        endpoint.timeout_seconds = timeout.unwrap_or(endpoint.timeout_seconds);
        endpoint.rate_limit_per_minute = rate_limit.or(endpoint.rate_limit_per_minute);
        Ok(())
    }
}

/// `finalizer endpoints list`
#[derive(Args)]
pub(super) struct ListEndpoints {
    /// Only this owner's endpoints
    #[arg(long, value_name = "ID")]
    owner: Option<i64>,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    secrets: SecretSettings,
    #[command(flatten)]
    output: OutputSettings,
}

/// A command about one endpoint.
#[derive(Args)]
pub(super) struct NamedEndpoint {
    /// The endpoint's id
    #[arg(value_name = "ENDPOINT")]
    endpoint_id: Uuid,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    secrets: SecretSettings,
    #[command(flatten)]
    output: OutputSettings,
}

/// `finalizer endpoints edit`
#[derive(Args)]
pub(super) struct EditEndpoint {
    #[command(flatten)]
    named: NamedEndpoint,
    /// Where to POST
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    manner: Manner,
    /// Take away what it has, of: tenant, character, events, headers, rate-limit
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = parse_cleared)]
    clear: Vec<Cleared>,
    #[command(flatten)]
    webhooks: WebhookSettings,
}

/// What of an endpoint can be taken away.
#[derive(Debug, Clone, Copy)]
enum Cleared {
    Tenant,
    Character,
    Events,
    Headers,
    RateLimit,
}

/// `finalizer endpoints rotate-secret`
#[derive(Args)]
pub(super) struct RotateSecret {
    #[command(flatten)]
    named: NamedEndpoint,
    /// A secret of your own, `whsec_…` [default: a new one]
    #[arg(long, value_name = "SECRET", value_parser = parse_secret)]
    secret: Option<Secret>,
    /// How long the present secret signs along; 0s ends it, and all before it, at once
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_overlap)]
    overlap: TimeDelta,
}

/// `finalizer endpoints ping`
#[derive(Args)]
pub(super) struct PingEndpoint {
    /// The endpoint's id
    #[arg(value_name = "ENDPOINT")]
    endpoint_id: Uuid,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    secrets: SecretSettings,
    #[command(flatten)]
    webhooks: WebhookSettings,
    #[command(flatten)]
    output: OutputSettings,
}

/// Whose sessions an endpoint hears of; `None` is everyone's.
#[derive(Debug, Clone, Copy)]
struct Owner(Option<i64>);

impl EndpointsCommand {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        match self {
            Self::Add(command) => command.perform().await,
            Self::List(command) => command.perform().await,
            Self::Show(command) => command.show().await,
            Self::Edit(command) => command.perform().await,
            Self::RotateSecret(command) => command.perform().await,
            Self::Enable(command) => command.enable().await,
            Self::Disable(command) => command.disable().await,
            Self::Ping(command) => command.perform().await,
            Self::Delete(command) => command.delete().await,
        }
    }
}

impl AddEndpoint {
    async fn perform(self) -> Result<(), Stop> {
        let url = check_url(&self.webhooks, &self.url)?;
        let keyring = open::keyring(&self.secrets, &self.store)?;
        let now = SystemClock::default().now();
        let secret = self.secret.unwrap_or_else(new_secret);
        let mut endpoint = new_endpoint(&keyring, (url, self.owner.0), secret.clone(), now);
        self.manner.apply(&keyring, &mut endpoint)?;
        open::store_to_write(&self.store).await?.add_endpoint(&endpoint).await?;
        show_secret(&endpoint, &keyring, &secret, self.output)
    }
}

/// Shows an endpoint with its new secret, this once.
fn show_secret(
    endpoint: &Endpoint,
    keyring: &Keyring,
    secret: &Secret,
    output: OutputSettings,
) -> Result<(), Stop> {
    let secret = secret.reveal();
    if output.json {
        let now = SystemClock::default().now();
        let shown = EndpointData::new(endpoint, None, Some(keyring), now).with_secret(&secret);
        return output::data(&shown);
    }
    output::line(format!("{}  {}", endpoint.endpoint_id, secret))?;
    output::remark("The secret is shown only now: give it to whoever verifies the webhooks.");
    Ok(())
}

impl ListEndpoints {
    async fn perform(self) -> Result<(), Stop> {
        let store = open::store_to_read(&self.store).await?;
        let endpoints = store.endpoints(self.owner).await?;
        let keyring = open::known_keyring(&self.secrets, &self.store)?;
        let (health, now) = (health(&store).await?, SystemClock::default().now());
        let shown = |endpoint: &Endpoint| {
            let health = health.get(&endpoint.endpoint_id);
            output::value(&EndpointData::new(endpoint, health, keyring.as_ref(), now))
        };
        let endpoints: Vec<Value> = endpoints.iter().map(shown).collect();
        self.output.list(
            &endpoints,
            ["id", "url", "owner", "tenant", "character", "types", "payload", "state"],
            |endpoint| {
                let types = endpoint["event_types"].as_array().into_iter().flatten();
                let types: Vec<_> = types.filter_map(Value::as_str).collect();
                let owner = output::field(endpoint, "owner");
                [
                    output::field(endpoint, "id"),
                    output::field(endpoint, "url"),
                    if owner.is_empty() { "all".to_owned() } else { owner },
                    output::field(endpoint, "tenant_id"),
                    output::field(endpoint, "character_slug"),
                    if types.is_empty() { "all".to_owned() } else { types.join(", ") },
                    output::field(endpoint, "payload"),
                    state(endpoint),
                ]
            },
            "There are no endpoints yet: add one with `finalizer endpoints add URL --owner ID`.",
        )
    }
}

/// How an endpoint is, in a few words.
fn state(endpoint: &Value) -> String {
    if endpoint["disabled_at"].is_string() {
        return format!("disabled: {}", output::field(endpoint, "disabled_reason"));
    }
    if endpoint["failing_since"].is_string() {
        let since = output::cell(endpoint, "failing_since");
        let percent = output::field(endpoint, "percent_to_disabled");
        return format!("failing since {since}, {percent} % of the way to being disabled");
    }
    "enabled".to_owned()
}

impl NamedEndpoint {
    async fn show(self) -> Result<(), Stop> {
        let store = open::store_to_read(&self.store).await?;
        self.print(&store).await
    }

    async fn print(&self, store: &SharedStore) -> Result<(), Stop> {
        let endpoint = endpoint(store, self.endpoint_id).await?;
        let keyring = open::known_keyring(&self.secrets, &self.store)?;
        let (health, now) = (health(store).await?, SystemClock::default().now());
        let health = health.get(&self.endpoint_id);
        let shown = output::value(&EndpointData::new(&endpoint, health, keyring.as_ref(), now));
        if self.output.json { output::data(&shown) } else { output::members(&shown) }
    }

    async fn enable(self) -> Result<(), Stop> {
        let store = open::store_to_read(&self.store).await?;
        store.enable_endpoint(self.endpoint_id).await?;
        self.print(&store).await
    }

    async fn disable(self) -> Result<(), Stop> {
        let store = open::store_to_read(&self.store).await?;
        let now = SystemClock::default().now();
        store.disable_endpoint(self.endpoint_id, BY_HAND, now).await?;
        self.print(&store).await
    }

    async fn delete(self) -> Result<(), Stop> {
        let store = open::store_to_read(&self.store).await?;
        let now = SystemClock::default().now();
        if !store.delete_endpoint(self.endpoint_id, now).await? {
            return Err(no_endpoint(self.endpoint_id));
        }
        if self.output.json {
            return output::data(&json!({ "id": self.endpoint_id }));
        }
        output::line(format!("{}  deleted", self.endpoint_id))
    }
}

impl EditEndpoint {
    async fn perform(self) -> Result<(), Stop> {
        let url = self.url.as_deref().map(|url| check_url(&self.webhooks, url)).transpose()?;
        let store = open::store_to_read(&self.named.store).await?;
        let keyring = open::keyring(&self.named.secrets, &self.named.store)?;
        let mut changed = endpoint(&store, self.named.endpoint_id).await?;
        for cleared in self.clear {
            match cleared {
                Cleared::Tenant => changed.tenant_id = None,
                Cleared::Character => changed.character_slug = None,
                Cleared::Events => changed.event_types.clear(),
                Cleared::Headers => changed.sealed_headers = None,
                Cleared::RateLimit => changed.rate_limit_per_minute = None,
            }
        }
        if let Some(url) = url {
            changed.url = url;
        }
        self.manner.apply(&keyring, &mut changed)?;
        keep(&store, &changed).await?;
        self.named.print(&store).await
    }
}

impl RotateSecret {
    async fn perform(self) -> Result<(), Stop> {
        let store = open::store_to_read(&self.named.store).await?;
        let keyring = open::keyring(&self.named.secrets, &self.named.store)?;
        let endpoint = endpoint(&store, self.named.endpoint_id).await?;
        let secret = self.secret.unwrap_or_else(new_secret);
        let now = SystemClock::default().now();
        let rotated = courier::rotate(&keyring, &endpoint, secret.clone(), now, self.overlap);
        let rotated = rotated.map_err(|error| match error {
            RotateError::Rotation(error) => Stop::Usage(error.to_string()),
            RotateError::Secrets(error) => Stop::Broken(error.into()),
        })?;
        keep(&store, &rotated).await?;
        show_secret(&rotated, &keyring, &secret, self.named.output)
    }
}

/// Keeps a changed endpoint, unless somebody else changed it in this very moment.
async fn keep(store: &SharedStore, changed: &Endpoint) -> Result<(), Stop> {
    if store.change_endpoint(changed).await? {
        return Ok(());
    }
    let sentence = "somebody else changed the endpoint at the same moment; run this again";
    Err(anyhow::anyhow!(sentence).into())
}

impl PingEndpoint {
    async fn perform(self) -> Result<(), Stop> {
        let store = open::store_to_read(&self.store).await?;
        let keyring = open::keyring(&self.secrets, &self.store)?;
        let endpoint = endpoint(&store, self.endpoint_id).await?;
        let (installation, now) = (store.installation().await?, SystemClock::default().now());
        let client = Client::new(Arc::new(open::guard(&self.webhooks)), ClientOptions::default());
        let pinged = courier::ping(&client, &keyring, &endpoint, installation, now).await;
        let (message_id, posted) = pinged.map_err(anyhow::Error::from)?;
        self.print(&posted, message_id)?;
        match Answer::of(&posted, now) {
            Answer::Delivered => Ok(()),
            Answer::Gone | Answer::Failed { .. } => Err(Stop::SomeFailed),
        }
    }

    fn print(&self, posted: &Posted, message_id: MessageId) -> Result<(), Stop> {
        let shown = json!({
            "message_id": message_id.to_string(),
            "status": posted.status,
            "error": posted.error.map(PostError::as_str),
            "address": posted.address,
            "duration_ms": posted.duration.as_millis(),
            "response": String::from_utf8_lossy(&posted.body),
        });
        if self.output.json { output::data(&shown) } else { output::members(&shown) }
    }
}

async fn endpoint(store: &SharedStore, endpoint_id: Uuid) -> Result<Endpoint, Stop> {
    let found = store.endpoint(endpoint_id).await?;
    found.ok_or_else(|| no_endpoint(endpoint_id))
}

fn no_endpoint(endpoint_id: Uuid) -> Stop {
    output::remark(format!("There is no endpoint {endpoint_id}."));
    Stop::SomeFailed
}

async fn health(store: &SharedStore) -> Result<HashMap<Uuid, EndpointHealth>, Stop> {
    let all = store.endpoint_health(SystemClock::default().now()).await?;
    Ok(all.into_iter().map(|health| (health.endpoint_id, health)).collect())
}

fn check_url(webhooks: &WebhookSettings, url: &str) -> Result<String, Stop> {
    let checked = open::guard(webhooks).check_url(url);
    checked.map(String::from).map_err(|error| Stop::Usage(error.to_string()))
}

fn parse_owner(text: &str) -> Result<Owner, String> {
    match text {
        "all" => Ok(Owner(None)),
        _ => text
            .parse()
            .map(|id| Owner(Some(id)))
            .map_err(|_| "expected a user's id or `all`".to_owned()),
    }
}

fn parse_event_type(text: &str) -> Result<EventType, String> {
    EventType::parse(text).ok_or_else(|| {
        let types = EventType::ALL.map(EventType::as_str).join(", ");
        format!("expected one of {types}")
    })
}

fn parse_payload(text: &str) -> Result<PayloadKind, String> {
    PayloadKind::parse(text).ok_or_else(|| "expected thin or full".to_owned())
}

fn parse_secret(text: &str) -> Result<Secret, String> {
    Secret::parse(text).map_err(|error| error.to_string())
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected `NAME: VALUE`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn parse_timeout(text: &str) -> Result<u32, String> {
    check_timeout(text.parse().map_err(|_| "expected a number of seconds")?)
}

fn parse_rate_limit(text: &str) -> Result<u32, String> {
    check_rate_limit(text.parse().map_err(|_| "expected a number of attempts a minute")?)
}

fn parse_overlap(text: &str) -> Result<TimeDelta, String> {
    let overlap = humantime::parse_duration(text).ok().and_then(|d| TimeDelta::from_std(d).ok());
    overlap
        .filter(|overlap| *overlap <= LONGEST_OVERLAP)
        .ok_or_else(|| "expected a duration such as 0s, 12h or 24h, at most 7 days".to_owned())
}

fn parse_cleared(text: &str) -> Result<Cleared, String> {
    match text {
        "tenant" => Ok(Cleared::Tenant),
        "character" => Ok(Cleared::Character),
        "events" => Ok(Cleared::Events),
        "headers" => Ok(Cleared::Headers),
        "rate-limit" => Ok(Cleared::RateLimit),
        _ => Err("expected some of tenant, character, events, headers, rate-limit".to_owned()),
    }
}
