//! `finalizer failures`: events that could not be finalized.

mod discard;
mod replay;

use chrono::{DateTime, SubsecRound as _, Utc};
use clap::{Args, Subcommand};
use serde_json::Value;
use uuid::Uuid;

use crate::api::{FailureData, FailureStoryData};
use crate::config::StoreSettings;
use crate::event::FailureCode;
use crate::store::{FailureFilter, FailureState, Refusal};

use super::output::{LimitSettings, OutputSettings};
use super::{Stop, open, output};

/// `finalizer failures …`
#[derive(Subcommand)]
pub(super) enum FailuresCommand {
    /// List failures, the last seen first
    List(ListFailures),
    /// Print one failure
    Show(ShowFailure),
    /// Take failed events again: those named, or all that are open
    Replay(Box<replay::ReplayCommand>),
    /// Say that failures do not matter
    Discard(discard::DiscardFailures),
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
    /// Only failures of this character
    #[arg(long, value_name = "SLUG")]
    character: Option<String>,
    /// Only failures of this tenant
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Only failures in this state: open, replayed or discarded
    #[arg(long, value_name = "STATE", value_parser = parse_state)]
    state: Option<FailureState>,
    /// Only failures that were last seen from then on
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<DateTime<Utc>>,
    /// And before then
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<DateTime<Utc>>,
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
            Self::Replay(command) => command.perform().await,
            Self::Discard(command) => command.perform().await,
        }
    }
}

impl ListFailures {
    async fn perform(self) -> Result<(), Stop> {
        let filter = FailureFilter {
            code: self.code,
            state: self.state,
            session_id: self.session,
            character_slug: self.character,
            tenant_id: self.tenant,
            since: self.since,
            until: self.until,
            before: None,
            limit: self.limit.limit,
        };
        let failures = open::store_to_read(&self.store).await?.failures(&filter).await?;
        let failures: Vec<Value> =
            failures.iter().map(|failure| output::value(&FailureData::from(failure))).collect();
        self.output.list(
            &failures,
            ["id", "code", "state", "source", "seen", "last seen", "what to change"],
            |failure| {
                let told = ["pointer", "message"].map(|name| output::cell(failure, name));
                let what = told.join("  ").trim_start().to_owned();
                let [id, code, state, source, seen, last_seen] =
                    ["id", "code", "state", "source", "seen", "last_seen_at"]
                        .map(|name| output::cell(failure, name));
                [id, code, state, source, seen, last_seen, what]
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
            if let Some(at) = failure.raw_expired_at {
                output::remark(Refusal::Expired { at }.to_string());
                return Err(Stop::SomeFailed);
            }
            return output::bytes(&raw);
        }
        if self.output.json {
            return output::data(&FailureStoryData::new(&failure, &raw));
        }
        output::members(&output::value(&FailureData::from(&failure)))?;
        let headers = failure.headers.as_deref().unwrap_or("[]");
        let headers: Vec<Value> = serde_json::from_str(headers).unwrap_or_default();
        for header in &headers {
            let (name, value) = (output::field(header, "name"), output::field(header, "value"));
            output::line(format!(
                "{:>15}  {}",
                "header",
                output::plain(&format!("{name}: {value}"))
            ))?;
        }
        output::remark(format!(
            "The event itself: finalizer failures show {} --raw",
            self.failure_id
        ));
        Ok(())
    }
}

fn parse_code(text: &str) -> Result<FailureCode, String> {
    FailureCode::parse(text).ok_or_else(|| {
        let codes = FailureCode::ALL.map(FailureCode::as_str).join(", ");
        format!("expected one of {codes}")
    })
}

fn parse_state(text: &str) -> Result<FailureState, String> {
    let states = FailureState::ALL.map(FailureState::as_str).join(", ");
    FailureState::parse(text).ok_or_else(|| format!("expected one of {states}"))
}

fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc().trunc_subsecs(6));
    time.map_err(|_| "expected a time such as 2026-05-28T14:20:43Z".to_owned())
}
