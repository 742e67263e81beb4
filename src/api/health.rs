//! `/livez`: the process answers. `/readyz`: it can do its work.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::envelope::{Envelope, Refusal, Reply};
use super::error::ApiError;
use super::probes::Probes;

/// Nothing more to say.
#[derive(Serialize, ToSchema)]
pub(super) struct Alive {}

/// Every part of the process, with what ails it, or null.
#[derive(Serialize, ToSchema)]
pub(super) struct Parts(BTreeMap<&'static str, Option<String>>);

/// Does the process answer?
#[utoipa::path(
    get, path = "/livez", tag = "Health", security(()),
    responses((status = 200, description = "It does", body = Envelope<Alive>)),
)]
pub(super) async fn livez() -> Reply<Alive> {
    Reply { message: "Alive.".into(), data: Alive {} }
}

/// Can it do its work?
///
/// `data` names every part with what ails it, or null.
#[utoipa::path(
    get, path = "/readyz", tag = "Health", security(()),
    responses(
        (status = 200, description = "It can", body = Envelope<Parts>),
        (status = 503, description = "It cannot: `data` is as above", body = Refusal),
    ),
)]
pub(super) async fn readyz(State(probes): State<Probes>) -> Result<Reply<Parts>, ApiError> {
    let parts = probes.troubles().await;
    let is_ready = parts.values().all(Option::is_none);
    if is_ready {
        Ok(Reply { message: "Ready.".into(), data: Parts(parts) })
    } else {
        Err(ApiError::NotReady(json!(parts)))
    }
}
