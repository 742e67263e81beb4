//! `finalizer schema`: what describes the formats, for other programs.

use clap::{Args, ValueEnum};

use super::{Stop, output};
use crate::api;

/// `finalizer schema`
#[derive(Args)]
pub(super) struct SchemaCommand {
    /// Of what
    #[arg(value_enum)]
    what: What,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// The HTTP API, as OpenAPI 3.1
    Openapi,
}

impl SchemaCommand {
    pub(super) fn perform(self) -> Result<(), Stop> {
        let What::Openapi = self.what;
        output::json(&api::description())
    }
}
