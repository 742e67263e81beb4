//! `/api/webhooks/deliveries/`: what became of webhooks. Owners see those to their own endpoints.

use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::ApiState;
use super::super::auth::Viewer;
use super::super::envelope::{Envelope, Refusal, Reply};
use super::super::error::ApiError;
use super::super::fields::{self, QueryFields};
use super::{DeliveryData, DeliveryStoryData, Id, visible_endpoint};
use crate::store::{Delivery, DeliveryFilter, DeliveryState, DeliveryStory};
use crate::webhook::MessageId;

const PAGE_SIZE: u32 = 50;
const LARGEST_PAGE: u32 = 200;
const NO_DELIVERY: ApiError = ApiError::NotFound("There is no such delivery.");

/// What a list is asked for.
struct Asked {
    session_id: Option<Uuid>,
    message_id: Option<MessageId>,
    filter: DeliveryFilter,
}

/// A part of the deliveries.
#[derive(Serialize, ToSchema)]
#[schema(as = Deliveries)]
pub(super) struct DeliveriesData {
    deliveries: Vec<DeliveryData>,
    /// The `before` of the next page; null: this is the last one.
    next_before: Option<Uuid>,
}

/// Deliveries
///
/// The newest first.
#[utoipa::path(
    get, path = "/api/webhooks/deliveries/", tag = "Webhooks", operation_id = "list_deliveries",
    params(
        ("session_id" = Option<Uuid>, Query, description = "Only of this session's messages"),
        ("message_id" = Option<String>, Query, description = "Only of this message",
            pattern = "^msg_[0-9a-f]{32}$"),
        ("endpoint_id" = Option<Uuid>, Query, description = "Only to this endpoint"),
        ("status" = Option<DeliveryState>, Query, description = "Only in this state"),
        ("before" = Option<Uuid>, Query, description = "Only older ones than this delivery"),
        ("page_size" = Option<u32>, Query, minimum = 1, maximum = 200),
    ),
    responses(
        (status = 200, description = "The deliveries", body = Envelope<DeliveriesData>),
        (status = 404, description = "You have no such endpoint", body = Refusal),
    ),
)]
pub(super) async fn list(
    viewer: Viewer,
    State(state): State<ApiState>,
    QueryFields(mut query): QueryFields,
) -> Result<Reply<DeliveriesData>, ApiError> {
    let page_size = fields::within(1..=LARGEST_PAGE);
    let asked = Asked {
        session_id: query.given("session_id", fields::id),
        message_id: query.given("message_id", read_message_id),
        filter: DeliveryFilter {
            endpoint_id: query.given("endpoint_id", fields::id),
            state: query.given("status", read_state),
            before: query.given("before", fields::id),
            limit: query.given("page_size", page_size).unwrap_or(PAGE_SIZE),
        },
    };
    query.end()?;
    let deliveries = find(&state, viewer, &asked).await?;
    let is_full = deliveries.len() == asked.filter.limit as usize;
    let next_before = deliveries.last().filter(|_| is_full).map(|last| last.delivery_id);
    let deliveries = deliveries.iter().map(DeliveryData::from).collect();
    let data = DeliveriesData { deliveries, next_before };
    Ok(Reply { message: "The deliveries, the newest first.".into(), data })
}

async fn find(state: &ApiState, viewer: Viewer, asked: &Asked) -> Result<Vec<Delivery>, ApiError> {
    let Asked { session_id, message_id, filter } = asked;
    // Staff also see what was owed to endpoints that are deleted.
    if let Some(endpoint_id) = filter.endpoint_id.filter(|_| !viewer.is_staff) {
        visible_endpoint(state, viewer, endpoint_id).await?;
    }
    let own: Option<Vec<Uuid>> = if viewer.is_staff {
        None
    } else {
        let endpoints = state.store.endpoints(Some(viewer.user)).await?;
        Some(endpoints.into_iter().map(|endpoint| endpoint.endpoint_id).collect())
    };
    let mut found = match (session_id, message_id, &own) {
        // A session or a message has few deliveries: all of them are read.
        (_, Some(message_id), _) => state.store.deliveries_of_message(*message_id).await?,
        (Some(session_id), None, _) => state.store.deliveries_of(*session_id).await?,
        (None, None, Some(own)) if filter.endpoint_id.is_none() => {
            let mut found = Vec::new();
            for endpoint_id in own {
                let of_one = DeliveryFilter { endpoint_id: Some(*endpoint_id), ..filter.clone() };
                found.extend(state.store.deliveries(&of_one).await?);
            }
            found
        }
        (None, None, _) => state.store.deliveries(filter).await?,
    };
    found.retain(|delivery| {
        own.as_ref().is_none_or(|own| own.contains(&delivery.endpoint_id))
            && session_id.is_none_or(|id| delivery.session_id == Some(id))
    });
    Ok(filter.apply(found))
}

/// One delivery, with its attempts
#[utoipa::path(
    get, path = "/api/webhooks/deliveries/{id}/", tag = "Webhooks", operation_id = "get_delivery",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The delivery", body = Envelope<DeliveryStoryData>),
        (status = 404, description = "There is no such delivery to an endpoint of yours", body = Refusal),
    ),
)]
pub(super) async fn show(
    viewer: Viewer,
    Id(delivery_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<Box<RawValue>>, ApiError> {
    let story = visible_story(&state, viewer, delivery_id).await?;
    let data = to_raw_value(&DeliveryStoryData::new(&story, viewer.is_staff));
    let data = data.expect("what is stored can be shown");
    Ok(Reply { message: "The delivery and its attempts.".into(), data })
}

/// Send a delivery again
///
/// Whatever became of it.
#[utoipa::path(
    post, path = "/api/webhooks/deliveries/{id}/redeliver/", tag = "Webhooks", operation_id = "redeliver",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "It is on its way", body = Envelope<DeliveryData>),
        (status = 404, description = "There is no such delivery to an endpoint of yours", body = Refusal),
        (status = 409, description = "It cannot go out now", body = Refusal),
    ),
)]
pub(super) async fn redeliver(
    viewer: Viewer,
    Id(delivery_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<DeliveryData>, ApiError> {
    visible_story(&state, viewer, delivery_id).await?;
    if state.store.redeliver(&[delivery_id], state.clock.now()).await?.is_empty() {
        return Err(ApiError::Conflict(NOT_NOW.into()));
    }
    let story = visible_story(&state, viewer, delivery_id).await?;
    let data = DeliveryData::from(&story.delivery);
    Ok(Reply { message: "The delivery is on its way again.".into(), data })
}

/// Why a delivery does not go out again.
pub(super) const NOT_NOW: &str = "It is being sent at this moment, or its endpoint is disabled or \
                                  deleted: enable the endpoint first.";

async fn visible_story(
    state: &ApiState,
    viewer: Viewer,
    delivery_id: Uuid,
) -> Result<DeliveryStory, ApiError> {
    let story = state.store.delivery(delivery_id).await?.ok_or(NO_DELIVERY)?;
    // Staff also see what was owed to an endpoint that is deleted.
    if !viewer.is_staff {
        let endpoint = visible_endpoint(state, viewer, story.delivery.endpoint_id).await;
        endpoint.map_err(|error| match error {
            ApiError::NotFound(_) => NO_DELIVERY,
            other => other,
        })?;
    }
    Ok(story)
}

fn read_state(value: &Value) -> Result<DeliveryState, String> {
    DeliveryState::parse(fields::text(value)?).ok_or_else(|| {
        let states = DeliveryState::ALL.map(DeliveryState::as_str).join(", ");
        format!("Expected one of {states}.")
    })
}

fn read_message_id(value: &Value) -> Result<MessageId, String> {
    let id = MessageId::parse(fields::text(value)?);
    id.ok_or_else(|| "Expected `msg_` and 32 hexadecimal digits.".to_owned())
}
