//! Finalizer turns the end of a voice call into a session a customer can read.
//!
//! # The way of an event
//!
//! The modules stand in the order in which an event travels; each knows only those above it,
//! and `cli/run.rs` alone knows all.
//!
//! - [`event`]: bytes become a typed event, or a rejection that says what to change (pure)
//! - [`webhook`]: what a webhook is: ids, signatures, when to try again (pure)
//! - [`finalize`]: what an event makes of a session (pure)
//! - [`store`]: where everything is kept: `SQLite` or `PostgreSQL`
//! - [`intake`]: events in, from `RabbitMQ`, HTTP and files, taken in batches
//! - [`courier`]: webhooks out
//! - [`recordings`]: where recordings lie: S3 or a folder
//! - [`retention`]: what is not kept for ever
//! - [`api`]: what customers read
//! - [`cli`]: the commands
//!
//! Beside them: [`config`], [`clock`], [`backoff`], [`secrets`], [`health`], [`metrics`], [`shutdown`], [`telemetry`],
//! `spans`, and `crash`, with which the fault suite makes a process die where it hurts.

pub mod api;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod config;
pub mod courier;
mod crash;
pub mod event;
pub mod finalize;
pub mod health;
pub mod intake;
pub mod metrics;
pub mod recordings;
pub mod retention;
pub mod secrets;
pub mod shutdown;
mod spans;
pub mod store;
pub mod telemetry;
pub mod webhook;
