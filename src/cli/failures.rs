//! `finalizer failures`: events that could not be finalized.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::config::StoreSettings;
use crate::event::FailureCode;
use crate::store::{Failure, FailureFilter};

use super::output::{LimitSettings, OutputSettings};
use super::{Stop, open, output};

/// `finalizer failures …`
#[derive(Subcommand)]
pub(super) enum FailuresCommand {
    /// List failures, newest first
    List(ListFailures),
    /// Print one failure
    Show(ShowFailure),
}

/// `finalizer failures list`
#[derive(Args)]
pub(super) struct ListFailures {
    /// Only failures with this code, such as `invalid_event`
    #[arg(long, value_parser = parse_code)]
    code: Option<FailureCode>,
    /// Only failures about this session
    #[arg(long, value_name = "ID")]
    session: Option<Uuid>,
    #[command(flatten)]
    limit: LimitSettings,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    output: OutputSettings,
}

/// `finalizer failures show`
#[derive(Args)]
pub(super) struct ShowFailure {
    /// The failure's id
    #[arg(value_name = "FAILURE")]
    failure_id: Uuid,
    /// Print the event's bytes as they came, and nothing else
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    output: OutputSettings,
}

impl FailuresCommand {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        match self {
            Self::List(command) => command.perform().await,
            Self::Show(command) => command.perform().await,
        }
    }
}

impl ListFailures {
    async fn perform(self) -> Result<(), Stop> {
        let (session_id, limit) = (self.session, self.limit.limit);
        let filter = FailureFilter { code: self.code, session_id, limit };
        let failures = open::store_to_read(&self.store).await?.failures(&filter).await?;
        let failures: Vec<Value> = failures.iter().map(shown).collect();
        self.output.list(
            &failures,
            ["id", "code", "source", "seen", "last seen", "what to change"],
            |failure| {
                let told = ["pointer", "message"].map(|name| output::cell(failure, name));
                let what = told.join("  ").trim_start().to_owned();
                let [id, code, source, seen, last_seen] =
                    ["id", "code", "source", "seen", "last_seen_at"]
                        .map(|name| output::cell(failure, name));
                [id, code, source, seen, last_seen, what]
            },
            "There are no such failures.",
        )
    }
}

impl ShowFailure {
    async fn perform(self) -> Result<(), Stop> {
        let store = open::store_to_read(&self.store).await?;
        let Some((failure, raw)) = store.failure(self.failure_id).await? else {
            output::remark(format!("There is no failure {}.", self.failure_id));
            return Err(Stop::SomeFailed);
        };
        if self.raw {
            return output::bytes(&raw);
        }
        let shown = shown(&failure);
        if self.output.json {
            return output::data(&shown);
        }
        output::members(&shown)?;
        output::remark(format!(
            "The event itself: finalizer failures show {} --raw",
            self.failure_id
        ));
        Ok(())
    }
}

fn shown(failure: &Failure) -> Value {
    let rejection = &failure.rejection;
    json!({
        "id": failure.failure_id,
        "code": rejection.code,
        "message": rejection.message,
        "pointer": rejection.pointer,
        "session_id": rejection.session_id,
        "event_id": rejection.event_id,
        "event_type": rejection.event_type,
        "source": failure.source,
        "size_bytes": failure.size_bytes,
        "seen": failure.seen,
        "first_seen_at": failure.first_seen_at,
        "last_seen_at": failure.last_seen_at,
    })
}

fn parse_code(text: &str) -> Result<FailureCode, String> {
    FailureCode::parse(text).ok_or_else(|| {
        let codes = FailureCode::ALL.map(FailureCode::as_str).join(", ");
        format!("expected one of {codes}")
    })
}
