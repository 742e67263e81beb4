//! Webhooks: who gets them, what became of them, and sending them again.

mod deliveries;
mod endpoints;
mod redeliveries;
mod show;
mod turns;

use std::sync::Arc;

use utoipa_axum::routes;
use uuid::Uuid;

use turns::Turns;

pub use show::{DeliveryData, DeliveryStoryData, EndpointData, EndpointSecretData, RedeliveryData};

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
    Routes::default()
        .both(routes!(endpoints::list, endpoints::create))
        .both(routes!(endpoints::show, endpoints::edit, endpoints::delete))
        .both(routes!(endpoints::enable))
        .both(routes!(endpoints::disable))
        .both(routes!(endpoints::ping))
        .both(routes!(endpoints::rotate_secret))
        .both(routes!(deliveries::list))
        .both(routes!(deliveries::show))
        .both(routes!(deliveries::redeliver))
        .both(routes!(redeliveries::list, redeliveries::create))
        .both(routes!(redeliveries::show, redeliveries::cancel))
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
