//! The HTTP API: one file per resource, one envelope, one place that chooses statuses.

mod auth;
mod cors;
mod envelope;
mod error;
mod events;
mod failures;
mod fields;
mod health;
mod history;
mod id;
mod keys;
mod layers;
mod livekit;
mod recordings;
mod routes;
mod serve;
mod sessions;
mod upkeep;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};

pub use auth::{Authenticator, KeyError, NewApiKey, new_api_key};
pub use cors::{OriginError, Origins};
pub use failures::{failure_data, failure_story_data, outcome_data, replay_data, trial_data};
pub use keys::api_key_data;
pub use livekit::LivekitKey;
pub use upkeep::run;
pub use webhooks::{Webhooks, delivery_data, delivery_story_data, endpoint_data, redelivery_data};

use crate::clock::Clock;
use crate::health::Health;
use crate::intake::{Intake, Replayer};
use crate::recordings::Places;
use crate::secrets::Keyring;
use crate::store::SharedStore;
use error::ApiError;
use routes::Routes;
use serve::serve;

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
    /// Who replays failures; without it they can only be looked at and discarded.
    pub replayer: Option<Replayer>,
    /// Who signs `LiveKit`'s webhooks; without it, or without an intake, they are not taken.
    pub livekit: Option<Arc<LivekitKey>>,
    /// What ails this process.
    pub health: Arc<Health>,
    /// Whose pages may call from a browser.
    pub origins: Origins,
}

/// All routes.
pub fn router(state: ApiState) -> Router {
    let routes = routes(&state)
        .router
        .fallback(async || ApiError::NoSuchRoute)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed);
    let origins = state.origins.clone();
    layers::wrap(routes.layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES)), &origins).with_state(state)
}

/// The path of every route.
pub fn paths(state: &ApiState) -> Vec<String> {
    routes(state).paths
}

fn routes(state: &ApiState) -> Routes {
    Routes::default()
        .both("/api/billing/sessions/{session_id}/", get(sessions::show))
        .both("/api/billing/usage/", get(history::list))
        .merge(keys::routes())
        .merge(webhooks::routes())
        .merge(failures::routes())
        .merge(state.intake.clone().map(events).unwrap_or_default())
        .merge(state.intake.clone().zip(state.livekit.clone()).map(livekit).unwrap_or_default())
        .route("/recordings/{*path}", get(recordings::play))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
}

fn events(intake: Intake) -> Routes {
    let take = post(move |staff, headers, body| events::take(intake, staff, headers, body))
        .layer(DefaultBodyLimit::max(events::BODY_LIMIT_BYTES));
    Routes::default().both("/api/events/", take)
}

fn livekit(parts: (Intake, Arc<LivekitKey>)) -> Routes {
    let take = post(move |headers, body| livekit::take(parts, headers, body));
    Routes::default().both("/api/livekit/webhook/", take)
}
