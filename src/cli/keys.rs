//! `finalizer keys`: keys to the API.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::api::{NewApiKey, new_api_key};
use crate::clock::{self, Clock as _, SystemClock};
use crate::config::StoreSettings;
use crate::store::ApiKey;

use super::output::OutputSettings;
use super::{Stop, open, output};

/// `finalizer keys …`
#[derive(Subcommand)]
pub(super) enum KeysCommand {
    /// Make a key; it is shown once
    Create(CreateKey),
    /// List keys
    List(ListKeys),
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

impl KeysCommand {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        match self {
            Self::Create(command) => command.perform().await,
            Self::List(command) => command.perform().await,
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
            let mut shown = shown(&key);
            shown["key"] = json!(text);
            return output::data(&shown);
        }
        output::line(text)?;
        output::remark("This key is shown only now: only its hash is kept.");
        Ok(())
    }
}

impl ListKeys {
    async fn perform(self) -> Result<(), Stop> {
        let keys = open::store_to_read(&self.store).await?.api_keys().await?;
        let keys: Vec<Value> = keys.iter().map(shown).collect();
        self.output.list(
            &keys,
            ["id", "key", "name", "user", "staff", "active", "created"],
            |key| {
                ["id", "key_preview", "name", "user", "is_staff", "is_active", "created_at"]
                    .map(|field| output::cell(key, field))
            },
            "There are no keys yet: make one with `finalizer keys create --user ID`.",
        )
    }
}

fn shown(key: &ApiKey) -> Value {
    json!({
        "id": key.key_id,
        "key_preview": key.preview,
        "name": key.name,
        "user": key.user,
        "is_staff": key.is_staff,
        "is_active": key.is_active,
        "created_at": key.created_at,
    })
}
