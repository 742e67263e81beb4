//! `/livez`: the process answers. `/readyz`: it can do its work.

use std::time::Duration;

use axum::extract::State;
use serde_json::{Value, json};

use super::ApiState;
use super::envelope::Reply;
use super::error::ApiError;
use crate::intake::Intake;

/// A store that takes longer is no store to work with.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn livez() -> Reply<Value> {
    Reply { message: "Alive.".into(), data: json!({}) }
}

/// `data` names every part with what ails it, or null.
pub(super) async fn readyz(State(state): State<ApiState>) -> Result<Reply<Value>, ApiError> {
    let store = match tokio::time::timeout(STORE_TIMEOUT, state.store.now()).await {
        Ok(Ok(_)) => None,
        Ok(Err(_)) | Err(_) => Some("The database is not answering.".to_owned()),
    };
    let mut parts = state.health.parts();
    parts.insert("store", store);
    if state.intake.as_ref().is_some_and(Intake::is_paused) {
        parts.insert("intake", Some("Events are held back until the database answers.".to_owned()));
    }
    let is_ready = parts.values().all(Option::is_none);
    let data = json!(parts);
    if is_ready {
        Ok(Reply { message: "Ready.".into(), data })
    } else {
        Err(ApiError::NotReady(data))
    }
}
