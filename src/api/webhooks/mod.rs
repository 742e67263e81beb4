//! Webhooks: who gets them, what became of them, and sending them again.

mod deliveries;
mod endpoints;
mod redeliveries;
mod show;
mod turns;

use std::sync::Arc;

use axum::routing::{get, post};
use uuid::Uuid;

use turns::Turns;

pub use show::{delivery_data, delivery_story_data, endpoint_data, redelivery_data};

use super::ApiState;
use super::auth::Viewer;
use super::error::ApiError;
use super::id::Id;
use super::routes::Routes;
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
pub(super) fn routes() -> Routes {
    let one = get(endpoints::show).patch(endpoints::edit).delete(endpoints::delete);
    let job = get(redeliveries::show).delete(redeliveries::cancel);
    Routes::default()
        .both("/api/webhooks/endpoints/", get(endpoints::list).post(endpoints::create))
        .both("/api/webhooks/endpoints/{id}/", one)
        .both("/api/webhooks/endpoints/{id}/enable/", post(endpoints::enable))
        .both("/api/webhooks/endpoints/{id}/disable/", post(endpoints::disable))
        .both("/api/webhooks/endpoints/{id}/ping/", post(endpoints::ping))
        .both("/api/webhooks/endpoints/{id}/rotate-secret/", post(endpoints::rotate_secret))
        .both("/api/webhooks/deliveries/", get(deliveries::list))
        .both("/api/webhooks/deliveries/{id}/", get(deliveries::show))
        .both("/api/webhooks/deliveries/{id}/redeliver/", post(deliveries::redeliver))
        .both("/api/webhooks/redeliveries/", get(redeliveries::list).post(redeliveries::create))
        .both("/api/webhooks/redeliveries/{id}/", job)
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
