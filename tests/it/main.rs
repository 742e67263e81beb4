//! The tests that run the real thing: both databases, the broker, the whole service.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod abandon;
mod amqp;
mod api;
mod api_failures;
mod api_history;
mod api_keys;
mod api_livekit;
mod api_scoping;
mod api_webhooks;
mod architecture;
mod calls;
mod claimed;
mod claims;
mod cli;
mod cli_failures;
mod erase;
mod failures;
mod faults;
mod harness;
mod history;
mod hostile;
mod merge;
mod migrations;
mod oracle;
mod player;
mod poison;
mod presigned;
mod reading;
mod recordings;
mod reprice;
mod samples;
mod scenarios;
mod store;
mod webhooks;
