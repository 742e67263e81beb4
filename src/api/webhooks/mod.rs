//! Webhooks: who gets them, what became of them, and sending them again.

mod deliveries;
mod endpoints;
mod redeliveries;
mod show;
mod turns;

use std::sync::Arc;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::routing::{MethodRouter, get, post};
use http::request::Parts;
use uuid::Uuid;

use turns::Turns;

pub use show::{delivery_data, delivery_story_data, endpoint_data, redelivery_data};

use super::ApiState;
use super::auth::Viewer;
use super::error::ApiError;
use super::fields;
use crate::courier::{Client, Guard};
use crate::store::Endpoint;

/// What the routes about webhooks need beside the store.
pub struct Webhooks {
    /// Where webhooks may go.
    pub guard: Arc<Guard>,
    /// Tries endpoints out.
    pub client: Client,
    pings: Turns,
    counts: Turns,
}

impl Webhooks {
    /// With these rules and this client.
    pub fn new(guard: Arc<Guard>, client: Client) -> Self {
        Self { guard, client, pings: Turns::new(4, 64), counts: Turns::new(1, 4) }
    }
}

/// All routes about webhooks.
pub(super) fn routes() -> Router<ApiState> {
    let one = get(endpoints::show).patch(endpoints::edit).delete(endpoints::delete);
    let job = get(redeliveries::show).delete(redeliveries::cancel);
    Router::new()
        .merge(both("endpoints/", get(endpoints::list).post(endpoints::create)))
        .merge(both("endpoints/{id}/", one))
        .merge(both("endpoints/{id}/enable/", post(endpoints::enable)))
        .merge(both("endpoints/{id}/disable/", post(endpoints::disable)))
        .merge(both("endpoints/{id}/ping/", post(endpoints::ping)))
        .merge(both("endpoints/{id}/rotate-secret/", post(endpoints::rotate_secret)))
        .merge(both("deliveries/", get(deliveries::list)))
        .merge(both("deliveries/{id}/", get(deliveries::show)))
        .merge(both("deliveries/{id}/redeliver/", post(deliveries::redeliver)))
        .merge(both("redeliveries/", get(redeliveries::list).post(redeliveries::create)))
        .merge(both("redeliveries/{id}/", job))
}

/// A route with and without the slash at its end.
fn both(path: &str, methods: MethodRouter<ApiState>) -> Router<ApiState> {
    let path = format!("/api/webhooks/{path}");
    Router::new().route(&path, methods.clone()).route(path.trim_end_matches('/'), methods)
}

/// An id in the path.
struct Id(Uuid);

impl FromRequestParts<ApiState> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ApiState,
    ) -> Result<Self, Self::Rejection> {
        fields::id_in_path(parts, state, "id").await.map(Self)
    }
}

const NO_ENDPOINT: ApiError = ApiError::NotFound("There is no such endpoint.");

/// The endpoint, if there is one and the viewer may see it: their own, or any for staff.
async fn visible_endpoint(
    state: &ApiState,
    viewer: Viewer,
    endpoint_id: Uuid,
) -> Result<Endpoint, ApiError> {
    let endpoint = state.store.endpoint(endpoint_id).await?;
    endpoint.filter(|endpoint| may_see(viewer, endpoint)).ok_or(NO_ENDPOINT)
}

fn may_see(viewer: Viewer, endpoint: &Endpoint) -> bool {
    viewer.is_staff || endpoint.owner == Some(viewer.user)
}
