//! `finalizer demo`: sample calls in, verified webhooks out, in a new temporary folder.

mod caller;
mod receiver;
mod samples;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use crate::clock::{self, Clock as _, SystemClock};
use crate::shutdown;
use crate::store::Endpoint;
use crate::webhook::{PayloadKind, Secret};
use crate::{api, webhook};

use self::caller::Caller;
use self::receiver::Received;
use self::samples::Call;
use super::run::{RunSettings, Service};
use super::{Stop, output};

/// How long webhooks may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// `finalizer demo`
#[derive(Args)]
pub(super) struct DemoCommand {
    /// Exit when all is shown, instead of keeping the API up; takes a free port
    #[arg(long, conflicts_with = "listen")]
    once: bool,
    /// The address to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

/// The demo's own installation.
struct Stage {
    service: Service,
    url: String,
    /// Reads the sessions of the sample calls' owner.
    customer_key: String,
    /// Sends events.
    worker_key: String,
    received: UnboundedReceiver<Received>,
}

/// What a sample call became.
struct Shown {
    title: &'static str,
    session: Value,
    is_verified: bool,
    is_readable: bool,
}
