//! `finalizer keys`: keys to the API.

use clap::{Args, Subcommand};
use serde_json::Value;
use uuid::Uuid;

use crate::api::{ApiKeyData, NewApiKey, new_api_key};
use crate::clock::{self, Clock as _, SystemClock};
use crate::config::StoreSettings;
use crate::store::ApiKeyChange;

use super::output::OutputSettings;
use super::{Stop, open, output};

/// `finalizer keys …`
#[derive(Subcommand)]
pub(super) enum KeysCommand {
    /// Make a key; it is shown once
    Create(CreateKey),
    /// List keys
    List(ListKeys),
    /// Make a key useless; it stays in the list
    Revoke(RevokeKey),
}

/// `finalizer keys create`
#[derive(Args)]
pub(super) struct CreateKey {
    /// Whose sessions the key may read: the id of the user who created the characters
    #[arg(long, value_name = "ID")]
    user: i64,
    /// The key may read everyone's sessions and send events
    #[arg(long)]
    staff: bool,
    /// What to call it
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    output: OutputSettings,
}

/// `finalizer keys list`
#[derive(Args)]
pub(super) struct ListKeys {
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    output: OutputSettings,
}

/// `finalizer keys revoke`
#[derive(Args)]
pub(super) struct RevokeKey {
    /// The key's id, as `keys list` shows it
    #[arg(value_name = "ID")]
    key_id: Uuid,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    output: OutputSettings,
}

impl KeysCommand {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        match self {
            Self::Create(command) => command.perform().await,
            Self::List(command) => command.perform().await,
            Self::Revoke(command) => command.perform().await,
        }
    }
}

impl CreateKey {
    async fn perform(self) -> Result<(), Stop> {
        let store = open::store_to_write(&self.store).await?;
        let now = SystemClock::default().now();
        let new = NewApiKey {
            key_id: clock::new_id(now),
            name: self.name.unwrap_or_default(),
            user: self.user,
            is_staff: self.staff,
            created_at: now,
        };
        let (text, key) = new_api_key(clock::random_key(), new);
        store.add_api_key(&key).await?;
        if self.output.json {
            return output::data(&ApiKeyData::from(&key).with_text(text));
        }
        output::line(text)?;
        output::remark("This key is shown only now: only its hash is kept.");
        Ok(())
    }
}

impl ListKeys {
    async fn perform(self) -> Result<(), Stop> {
        let keys = open::store_to_read(&self.store).await?.api_keys(None).await?;
        let keys: Vec<Value> =
            keys.iter().map(|key| output::value(&ApiKeyData::from(key))).collect();
        self.output.list(
            &keys,
            ["id", "key", "name", "user", "staff", "active", "created", "last used"],
            |key| {
                let cell = |field| output::cell(key, field);
                let [id, preview, name, user] = ["id", "key_preview", "name", "user"].map(cell);
                let [is_staff, is_active] = ["is_staff", "is_active"].map(cell);
                let [created, last_used] = ["created_at", "last_used_at"].map(cell);
                [id, preview, name, user, is_staff, is_active, created, last_used]
            },
            "There are no keys yet: make one with `finalizer keys create --user ID`.",
        )
    }
}

impl RevokeKey {
    async fn perform(self) -> Result<(), Stop> {
        let store = open::store_to_write(&self.store).await?;
        let revoke = ApiKeyChange { is_active: Some(false), ..ApiKeyChange::default() };
        let Some(key) = store.change_api_key(self.key_id, None, &revoke).await? else {
            output::remark(format!("There is no key {}.", self.key_id));
            return Err(Stop::SomeFailed);
        };
        if self.output.json {
            return output::data(&ApiKeyData::from(&key));
        }
        output::line(format!("The key {} of user {} is revoked.", key.preview, key.user))
    }
}
