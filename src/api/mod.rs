//! The HTTP API: one file per resource, one envelope, one place that chooses statuses.

mod auth;
mod cors;
mod envelope;
mod error;
mod events;
mod fields;
mod health;
mod history;
mod layers;
mod recordings;
mod serve;
mod sessions;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};

pub use auth::{Authenticator, KeyError, NewApiKey, new_api_key};
pub use cors::{OriginError, Origins};
pub use serve::serve;
pub use webhooks::{Webhooks, delivery_data, delivery_story_data, endpoint_data, redelivery_data};

use crate::clock::Clock;
use crate::health::Health;
use crate::intake::Intake;
use crate::recordings::Places;
use crate::secrets::Keyring;
use crate::store::SharedStore;
use error::ApiError;

/// The largest body of any request but `POST /api/events/`.
const BODY_LIMIT_BYTES: usize = 1024 * 1024;

/// All that the routes need.
#[derive(Clone)]
pub struct ApiState {
    /// Where sessions and keys are.
    pub store: SharedStore,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who may call.
    pub authenticator: Arc<Authenticator>,
    /// Links to other parts of a list begin with this URL.
    pub public_url: Arc<str>,
    /// Where recordings are.
    pub places: Arc<Places>,
    /// Opens and seals endpoints' secrets.
    pub keyring: Keyring,
    /// Where webhooks may go.
    pub webhooks: Arc<Webhooks>,
    /// Who takes events; without it there is no `/api/events/`.
    pub intake: Option<Intake>,
    /// What ails this process.
    pub health: Arc<Health>,
    /// Whose pages may call from a browser.
    pub origins: Origins,
}

/// All routes.
pub fn router(state: ApiState) -> Router {
    let routes = Router::new()
        .merge(sessions())
        .merge(usage())
        .merge(webhooks::routes())
        .merge(state.intake.clone().map(events).unwrap_or_default())
        .route("/recordings/{*path}", get(recordings::play))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .fallback(async || ApiError::NoSuchRoute)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed);
    let origins = state.origins.clone();
    layers::wrap(routes.layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES)), &origins).with_state(state)
}

fn sessions() -> Router<ApiState> {
    let show = get(sessions::show);
    Router::new()
        .route("/api/billing/sessions/{session_id}/", show.clone())
        .route("/api/billing/sessions/{session_id}", show)
}

fn usage() -> Router<ApiState> {
    let list = get(history::list);
    Router::new().route("/api/billing/usage/", list.clone()).route("/api/billing/usage", list)
}

fn events(intake: Intake) -> Router<ApiState> {
    let take = post(move |staff, headers, body| events::take(intake, staff, headers, body))
        .layer(DefaultBodyLimit::max(events::BODY_LIMIT_BYTES));
    Router::new().route("/api/events/", take.clone()).route("/api/events", take)
}
