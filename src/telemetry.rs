//! What the program says of itself: log lines on standard error, pretty for people, JSON for
//! machines.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How loud libraries may be. Some tell at `info` what only their authors want to know; others
/// log each error that they also return, which is told where it is handled.
const NOISY: [(&str, LevelFilter); 8] = [
    ("sqlx", LevelFilter::WARN),
    ("lapin", LevelFilter::OFF),
    ("hyper", LevelFilter::WARN),
    ("hyper_util", LevelFilter::WARN),
    ("rustls", LevelFilter::WARN),
    ("aws_config", LevelFilter::OFF),
    ("aws_sdk_s3", LevelFilter::OFF),
    ("aws_smithy_runtime", LevelFilter::OFF),
];

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogSettings {
    /// What to log: `error`, `warn`, `info`, `debug`, `trace`, or by module:
    /// `info,finalizer::courier=debug` [default: info for `run`, warn for all else]
    #[arg(long, global = true, env = "FINALIZER_LOG", value_name = "LEVELS")]
    #[arg(value_parser = parse_filter)]
    pub log: Option<Targets>,
    /// How to log [default: text on a terminal, json elsewhere]
    #[arg(long, global = true, env = "FINALIZER_LOG_FORMAT", value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

/// Starts logging, at `general` unless the settings say otherwise.
pub fn start(settings: &LogSettings, general: LevelFilter) {
    let is_terminal = std::io::stderr().is_terminal();
    let format =
        settings.log_format.unwrap_or(if is_terminal { LogFormat::Text } else { LogFormat::Json });
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(is_terminal).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // A second start (tests in one process) keeps the first.
    let filter = settings.log.clone().unwrap_or_else(|| quieted(Targets::new(), "", general));
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}

fn parse_filter(text: &str) -> Result<Targets, String> {
    let expected = || "expected a level such as info, or MODULE=LEVEL,…".to_owned();
    // A word that is no level would be taken for a module, and silence everything else.
    let is_known = |part: &str| part.contains('=') || part.trim().parse::<LevelFilter>().is_ok();
    if !text.split(',').all(is_known) {
        return Err(expected());
    }
    let asked: Targets = text.parse().map_err(|_| expected())?;
    let general = asked.default_level().unwrap_or(LevelFilter::OFF);
    Ok(quieted(asked, text, general))
}

/// Adds the general level, at which noisy libraries do not speak unless `text` names them.
fn quieted(asked: Targets, text: &str, general: LevelFilter) -> Targets {
    let quiet = NOISY.into_iter().filter(|(noisy, _)| !text.contains(noisy));
    let quiet = quiet.map(|(noisy, loudest)| (noisy, general.min(loudest)));
    asked.with_default(general).with_targets(quiet)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn libraries_keep_quiet_unless_they_are_asked() {
        let filter = parse_filter("debug").unwrap();
        assert!(filter.would_enable("finalizer::intake", &Level::DEBUG));
        assert!(!filter.would_enable("sqlx::query", &Level::INFO));
        assert!(filter.would_enable("sqlx::query", &Level::WARN));
        assert!(!filter.would_enable("lapin::channel", &Level::ERROR));
        let filter = parse_filter("error,sqlx=debug").unwrap();
        assert!(filter.would_enable("sqlx::query", &Level::DEBUG));
        assert!(!filter.would_enable("lapin", &Level::WARN));
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        parse_filter("finalizer=loud").unwrap_err();
        parse_filter("loud").unwrap_err();
    }
}
