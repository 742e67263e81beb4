//! `finalizer endpoints`: who gets webhooks.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::clock::{self, Clock as _, SystemClock};
use crate::config::{SecretSettings, StoreSettings, WebhookSettings};
use crate::courier::{
    self, ATTEMPT_DEADLINE, Answer, Client, ClientOptions, Letter, PostError, Posted, open_secrets,
};
use crate::store::{Endpoint, SharedStore};
use crate::webhook::{EventType, MessageId, MessageKey, PayloadKind};

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
    Show(ShowEndpoint),
    /// POST an `endpoint.ping` once, from here, and tell what came back
    Ping(PingEndpoint),
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
    #[arg(long, value_name = "KIND", default_value = "thin", value_parser = parse_payload)]
    payload: PayloadKind,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    secrets: SecretSettings,
    #[command(flatten)]
    webhooks: WebhookSettings,
    #[command(flatten)]
    output: OutputSettings,
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
    output: OutputSettings,
}

/// `finalizer endpoints show`
#[derive(Args)]
pub(super) struct ShowEndpoint {
    /// The endpoint's id
    #[arg(value_name = "ENDPOINT")]
    endpoint_id: Uuid,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    output: OutputSettings,
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
            Self::Show(command) => command.perform().await,
            Self::Ping(command) => command.perform().await,
        }
    }
}

impl AddEndpoint {
    async fn perform(self) -> Result<(), Stop> {
        let url = open::guard(&self.webhooks)
            .check_url(&self.url)
            .map_err(|error| Stop::Usage(error.to_string()))?;
        let keyring = open::keyring(&self.secrets, &self.store)?;
        let store = open::store_to_write(&self.store).await?;
        let now = SystemClock::default().now();
        let secret = new_secret();
        let endpoint = Endpoint {
            endpoint_id: clock::new_id(now),
            owner: self.owner.0,
            tenant_id: self.tenant,
            character_slug: self.character,
            event_types: self.events,
            payload: self.payload,
            url: url.into(),
            sealed_secret: keyring.seal(secret.as_bytes()),
            disabled: None,
            created_at: now,
        };
        store.add_endpoint(&endpoint).await?;
        if self.output.json {
            let mut shown = shown(&endpoint);
            shown["secret"] = json!(secret);
            return output::data(&shown);
        }
        output::line(format!("{}  {}", endpoint.endpoint_id, secret))?;
        output::remark("The secret is shown only now: give it to whoever verifies the webhooks.");
        Ok(())
    }
}

impl ListEndpoints {
    async fn perform(self) -> Result<(), Stop> {
        let endpoints = open::store_to_read(&self.store).await?.endpoints(self.owner).await?;
        let endpoints: Vec<Value> = endpoints.iter().map(shown).collect();
        self.output.list(
            &endpoints,
            ["id", "url", "owner", "tenant", "character", "types", "payload", "disabled"],
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
                    output::field(endpoint, "disabled_reason"),
                ]
            },
            "There are no endpoints yet: add one with `finalizer endpoints add URL --owner ID`.",
        )
    }
}

impl ShowEndpoint {
    async fn perform(self) -> Result<(), Stop> {
        let store = open::store_to_read(&self.store).await?;
        let shown = shown(&endpoint(&store, self.endpoint_id).await?);
        if self.output.json { output::data(&shown) } else { output::members(&shown) }
    }
}

impl PingEndpoint {
    async fn perform(self) -> Result<(), Stop> {
        let store = open::store_to_read(&self.store).await?;
        let keyring = open::keyring(&self.secrets, &self.store)?;
        let endpoint = endpoint(&store, self.endpoint_id).await?;
        let secrets =
            open_secrets(&keyring, &endpoint.sealed_secret).map_err(anyhow::Error::from)?;
        let now = SystemClock::default().now();
        let (endpoint_id, nonce) = (endpoint.endpoint_id, clock::new_id(now));
        let message_id =
            MessageId::new(store.installation().await?, &MessageKey::Ping { endpoint_id, nonce });
        let body = json!({
            "type": EventType::EndpointPing,
            "timestamp": now,
            "data": { "endpoint_id": endpoint_id },
        });
        let letter = Letter {
            url: &endpoint.url,
            secrets: &secrets,
            message_id,
            body: Bytes::from(body.to_string()),
        };
        let client = Client::new(Arc::new(open::guard(&self.webhooks)), ClientOptions::default());
        let posted = courier::send(&client, letter, now, ATTEMPT_DEADLINE).await;
        self.print(&posted, message_id)?;
        match Answer::of(&posted, now) {
            Answer::Delivered => Ok(()),
            Answer::Gone | Answer::Overloaded(_) | Answer::Failed => Err(Stop::SomeFailed),
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
    found.ok_or_else(|| {
        output::remark(format!("There is no endpoint {endpoint_id}."));
        Stop::SomeFailed
    })
}

/// A fresh signing secret, in the form of Standard Webhooks.
pub(super) fn new_secret() -> String {
    format!("whsec_{}", STANDARD.encode(clock::random_key()))
}

fn shown(endpoint: &Endpoint) -> Value {
    let disabled = endpoint.disabled.as_ref();
    json!({
        "id": endpoint.endpoint_id,
        "url": endpoint.url,
        "owner": endpoint.owner,
        "tenant_id": endpoint.tenant_id,
        "character_slug": endpoint.character_slug,
        "event_types": endpoint.event_types,
        "payload": endpoint.payload,
        "disabled_at": disabled.map(|(at, _)| at),
        "disabled_reason": disabled.map(|(_, reason)| reason),
        "created_at": endpoint.created_at,
    })
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
