//! `/api/webhooks/deliveries/`: what became of webhooks. Owners see those to their own endpoints.

use axum::extract::State;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::ApiState;
use super::super::auth::Viewer;
use super::super::envelope::Reply;
use super::super::error::ApiError;
use super::super::fields::{self, QueryFields};
use super::{Id, delivery_data, delivery_story_data, visible_endpoint};
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

/// The newest first; `next` is the query of the page after, or null.
pub(super) async fn list(
    viewer: Viewer,
    State(state): State<ApiState>,
    QueryFields(mut query): QueryFields,
) -> Result<Reply<Value>, ApiError> {
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
    let next = deliveries.last().filter(|_| is_full).map(|last| last.delivery_id);
    let shown: Vec<Value> = deliveries.iter().map(delivery_data).collect();
    let data = json!({ "deliveries": shown, "next_before": next });
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

pub(super) async fn show(
    viewer: Viewer,
    Id(delivery_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<Box<RawValue>>, ApiError> {
    let story = visible_story(&state, viewer, delivery_id).await?;
    let data = delivery_story_data(&story, viewer.is_staff);
    Ok(Reply { message: "The delivery and its attempts.".into(), data })
}

/// Sends a delivery again, whatever became of it.
pub(super) async fn redeliver(
    viewer: Viewer,
    Id(delivery_id): Id,
    State(state): State<ApiState>,
) -> Result<Reply<Value>, ApiError> {
    visible_story(&state, viewer, delivery_id).await?;
    if state.store.redeliver(&[delivery_id], state.clock.now()).await?.is_empty() {
        return Err(ApiError::Conflict(NOT_NOW.into()));
    }
    let story = visible_story(&state, viewer, delivery_id).await?;
    let data = delivery_data(&story.delivery);
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
