//! `finalizer schema`: what describes the formats, for other programs.

use clap::{Args, ValueEnum};

use super::{Stop, output};
use crate::{api, event, finalize};

/// `finalizer schema`
#[derive(Args)]
pub(super) struct SchemaCommand {
    /// Of what
    #[arg(value_enum)]
    what: What,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Events as voice workers publish them, as JSON Schema 2020-12
    Events,
    /// Bodies of webhooks, as JSON Schema 2020-12
    Webhooks,
    /// The HTTP API, as OpenAPI 3.1
    Openapi,
}

impl SchemaCommand {
    pub(super) fn perform(self) -> Result<(), Stop> {
        match self.what {
            What::Events => output::json(&event::schema()),
            What::Webhooks => output::json(&finalize::webhook_schema()),
            What::Openapi => output::json(&api::description()),
        }
    }
}
