//! The commands: one file each. What they have in common: how they stop, and what they open.

mod check;
mod deliveries;
mod demo;
mod endpoints;
mod failures;
mod files;
mod ingest;
mod keys;
mod migrate;
mod open;
mod output;
mod prune;
mod publish;
mod reprice;
mod run;
mod schema;
mod sessions;

use std::io;
use std::process::ExitCode;

use chrono::{DateTime, SubsecRound as _, Utc};
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::config::SettingError;
use crate::intake::amqp::BrokerError;
use crate::intake::file::FileError;
use crate::store::{OpenError, StoreError};
use crate::telemetry::{self, LogSettings};

/// Turns the end of a voice call into a session a customer can read.
///
/// Every setting is a flag and an environment variable; a flag wins. S3 takes the ordinary AWS_*
/// variables. Exit status: 0 done, 1 some items failed, 2 wrong usage, 3 a dependency is not there.
#[derive(Parser)]
#[command(name = "finalizer", version, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogSettings,
}

#[derive(Subcommand)]
enum Command {
    /// Take events, send webhooks, answer the API: in one process, until it is told to stop
    Run(Box<run::RunCommand>),
    /// Try it: sample calls in, verified webhooks out, in a new temporary folder
    Demo(demo::DemoCommand),
    /// Finalize the events of JSON or NDJSON files
    Ingest(ingest::IngestCommand),
    /// Publish the events of JSON or NDJSON files to RabbitMQ
    Publish(publish::PublishCommand),
    /// Sessions: what a customer would read
    #[command(subcommand)]
    Sessions(sessions::SessionsCommand),
    /// Failures: events that could not be finalized
    #[command(subcommand)]
    Failures(failures::FailuresCommand),
    /// Endpoints: who gets webhooks
    #[command(subcommand)]
    Endpoints(endpoints::EndpointsCommand),
    /// Deliveries: what became of webhooks
    #[command(subcommand)]
    Deliveries(deliveries::DeliveriesCommand),
    /// Keys to the API
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Forget what is older than it is to be kept, as servers do in time
    Prune(prune::PruneCommand),
    /// Bring the database to this release's layout
    Migrate(migrate::MigrateCommand),
    /// Can store, broker and recordings be reached and used?
    Check(check::CheckCommand),
    /// Print what describes the formats, for other programs
    Schema(schema::SchemaCommand),
}

/// Why a command ends before it is done.
#[derive(Debug)]
enum Stop {
    /// Some items failed; each has been told.
    SomeFailed,
    /// Wrong usage.
    Usage(String),
    /// A dependency is not there.
    Absent(String),
    /// Anything else.
    Broken(anyhow::Error),
    /// Nobody reads on.
    Unread,
}

impl From<SettingError> for Stop {
    fn from(error: SettingError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Transient(_) => Self::Absent(error.to_string()),
            StoreError::Rejected(_) | StoreError::Broken(_) => Self::Broken(error.into()),
        }
    }
}

impl From<OpenError> for Stop {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::BadUrl(_) => Self::Usage(error.to_string()),
            OpenError::Missing(_) => Self::Absent(format!(
                "{error}: name another with --database-url, or make one with `finalizer run`"
            )),
            OpenError::Folder { .. } | OpenError::Store(_) => Self::Absent(error.to_string()),
        }
    }
}

impl From<BrokerError> for Stop {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::BadUrl(_) => Self::Usage(error.to_string()),
            other => Self::Absent(other.to_string()),
        }
    }
}

impl From<FileError> for Stop {
    fn from(error: FileError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::Broken(error.into()),
        }
    }
}

impl Stop {
    /// Tells why, on standard error, and says the exit status.
    fn told(&self) -> ExitCode {
        match self {
            Self::Unread => ExitCode::SUCCESS,
            Self::SomeFailed => ExitCode::from(1),
            Self::Usage(sentence) => {
                output::remark(format!("error: {sentence}"));
                ExitCode::from(2)
            }
            Self::Absent(sentence) => {
                output::remark(format!("error: {sentence}"));
                ExitCode::from(3)
            }
            Self::Broken(error) => {
                output::remark(format!("error: {error:#}"));
                ExitCode::from(1)
            }
        }
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => return misread(&error),
    };
    let level =
        if matches!(line.command, Command::Run(_)) { LevelFilter::INFO } else { LevelFilter::WARN };
    telemetry::start(&line.log, level);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Stop::from(error).told(),
    };
    match runtime.block_on(line.command.perform()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => stop.told(),
    }
}

/// Shows help and version, or says in one sentence what is wrong with the command line.
fn misread(error: &clap::Error) -> ExitCode {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand || !error.use_stderr() {
        // Nobody is left to tell if it cannot be shown.
        let _ = error.print();
        return ExitCode::from(u8::from(error.use_stderr()) * 2);
    }
    output::remark(one_sentence(&error.render().to_string()));
    ExitCode::from(2)
}

/// What `clap` says on many lines, without the usage that follows it.
fn one_sentence(text: &str) -> String {
    let is_said = |line: &&str| !line.starts_with("Usage:");
    let lines = text.lines().map(str::trim).take_while(is_said);
    let mut sentence = String::new();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with("For more information")) {
        if !sentence.is_empty() {
            sentence.push_str(if sentence.ends_with(':') { " " } else { "; " });
        }
        sentence.push_str(line);
    }
    sentence
}

/// A time on the command line.
fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc().trunc_subsecs(6));
    time.map_err(|_| "expected a time such as 2026-05-28T14:20:43Z".to_owned())
}

impl Command {
    async fn perform(self) -> Result<(), Stop> {
        match self {
            Self::Run(command) => command.perform().await,
            Self::Demo(command) => command.perform().await,
            Self::Ingest(command) => command.perform().await,
            Self::Publish(command) => command.perform().await,
            Self::Sessions(command) => command.perform().await,
            Self::Failures(command) => command.perform().await,
            Self::Endpoints(command) => command.perform().await,
            Self::Deliveries(command) => command.perform().await,
            Self::Keys(command) => command.perform().await,
            Self::Prune(command) => command.perform().await,
            Self::Migrate(command) => command.perform().await,
            Self::Check(command) => command.perform().await,
            Self::Schema(command) => command.perform(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::{Arg, CommandFactory as _};

    use super::*;

    /// Every setting of every command: its flag, then its variable and its default.
    fn settings(command: &clap::Command) -> BTreeMap<String, (String, String)> {
        let own = command.get_arguments().filter_map(|argument| {
            let flag = format!("--{}", argument.get_long()?);
            let variable = argument.get_env()?.to_str()?.to_owned();
            Some((flag, (variable, default_of(argument))))
        });
        own.chain(command.get_subcommands().flat_map(settings)).collect()
    }

    fn default_of(argument: &Arg) -> String {
        // A switch is off, which goes without saying.
        let values = argument.get_default_values().iter().filter_map(|value| value.to_str());
        values.filter(|value| *value != "false").collect::<Vec<_>>().join(",")
    }

    #[test]
    fn the_readme_has_every_setting_with_its_variable_and_its_default() {
        let mut settings = settings(&CommandLine::command());
        for row in include_str!("../../README.md").lines().filter(|row| row.starts_with("| `--")) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let [_, flag, variable, default, _] = cells[..] else { panic!("{row}") };
            let flag = flag.split('`').nth(1).unwrap();
            let (its_variable, its_default) = settings.remove(flag).expect(flag);
            assert_eq!(variable, format!("`{its_variable}`"), "{flag}");
            if !its_default.is_empty() {
                assert_eq!(default, format!("`{its_default}`"), "{flag}");
            }
        }
        assert!(settings.is_empty(), "missing: {settings:?}");
    }

    #[test]
    fn the_command_line_is_put_together_without_contradictions() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn many_lines_become_one_sentence() {
        let text = "error: these are missing:\n  --owner <ID>\n  <URL>\n\nUsage: finalizer add\n";
        assert_eq!(one_sentence(text), "error: these are missing: --owner <ID>; <URL>");
        let text = "error: no `runn`\n\n  tip: try `run`\n\nFor more information, try '--help'.\n";
        assert_eq!(one_sentence(text), "error: no `runn`; tip: try `run`");
    }
}
