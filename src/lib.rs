//! Finalizer turns the end of a voice call into a session a customer can read.
//!
//! # The way of an event
//!
//! The modules stand in the order in which an event travels; each knows only those above it.

pub mod api;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod config;
pub mod courier;
pub mod event;
pub mod finalize;
pub mod health;
pub mod intake;
pub mod recordings;
pub mod secrets;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod webhook;
