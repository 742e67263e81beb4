//! The HTTP API: one file per resource, one envelope, one place that chooses statuses.

mod auth;
mod console;
mod cors;
mod docs;
mod envelope;
mod error;
mod events;
mod failures;
mod fields;
mod health;
mod history;
mod id;
mod intake;
mod keys;
mod layers;
mod livekit;
mod metrics;
mod openapi;
mod overview;
mod probes;
mod recordings;
mod routes;
mod serve;
mod sessions;
mod upkeep;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use utoipa_axum::routes;

pub use auth::{Authenticator, KeyError, NewApiKey, new_api_key};
pub use cors::{OriginError, Origins};
pub use failures::{FailureData, FailureStoryData, OutcomeData, ReplayData, TrialData};
pub use keys::{ApiKeyData, ApiKeyTextData};
pub use livekit::LivekitKey;
pub use openapi::description;
pub use probes::{Probes, run_probes};
pub use upkeep::run;
pub use webhooks::{
    DeliveryData, DeliveryStoryData, EndpointData, EndpointSecretData, RedeliveryData, Webhooks,
};

use crate::clock::Clock;
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
    /// What this process knows of itself.
    pub probes: Probes,
    /// Whose pages may call from a browser.
    pub origins: Origins,
}

/// All routes.
pub fn router(state: ApiState) -> Router {
    let routes = routes()
        .router
        .fallback(async || ApiError::NoSuchRoute)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed);
    let (origins, metrics) = (state.origins.clone(), Arc::clone(state.probes.metrics()));
    let routes = routes.layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES));
    layers::wrap(routes, &origins, metrics).with_state(state)
}

/// The path of every route.
pub fn paths() -> Vec<String> {
    routes().paths
}

fn routes() -> Routes {
    let (schemas, described, take_events) = routes!(events::take);
    let take_events = take_events.layer(DefaultBodyLimit::max(events::BODY_LIMIT_BYTES));
    Routes::default()
        .both(routes!(sessions::show))
        .both(routes!(history::list))
        .merge(webhooks::routes())
        .merge(keys::routes())
        .merge(failures::routes())
        .both((schemas, described, take_events))
        .both(routes!(livekit::take))
        .both(routes!(overview::show))
        .merge(console::routes())
        .wild("/recordings/{*path}", routes!(recordings::play))
        .route(routes!(health::livez))
        .route(routes!(health::readyz))
        .route(routes!(metrics::show))
        .add("/openapi.json", get(openapi::show))
        .add("/docs", get(docs::show))
}
