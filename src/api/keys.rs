//! `/api/auth/api-keys/`: who may read. Users manage their own keys, staff all.

use axum::extract::State;
use axum::routing::{get, patch};
use http::HeaderMap;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::{NewApiKey, Viewer, is_with_key, new_api_key};
use super::envelope::{Created, Reply};
use super::error::ApiError;
use super::fields::{self, Fields, QueryFields};
use super::id::Id;
use super::routes::Routes;
use crate::clock;
use crate::store::{ApiKey, ApiKeyChange};

/// Keys of one user: nobody tells more of them apart.
const MOST_KEYS: usize = 100;
const NO_KEY: ApiError = ApiError::NotFound("There is no such API key.");

/// All routes about keys.
pub(super) fn routes() -> Routes {
    Routes::default()
        .both("/api/auth/api-keys/", get(list).post(create))
        .both("/api/auth/api-keys/{id}/", patch(edit).delete(delete))
}

/// A key as everybody may see it who manages it.
pub fn api_key_data(key: &ApiKey) -> Value {
    json!({
        "id": key.key_id,
        "key_preview": key.preview,
        "name": key.name,
        "user": key.user,
        "is_staff": key.is_staff,
        "is_active": key.is_active,
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
    })
}

async fn list(
    viewer: Viewer,
    State(state): State<ApiState>,
    QueryFields(mut query): QueryFields,
) -> Result<Reply<Vec<Value>>, ApiError> {
    let user = query.given("user", fields::integer);
    if user.is_some_and(|user| !viewer.may_see(user)) {
        query.wrong("user", "Only staff see the keys of others.");
    }
    query.end()?;
    let keys = if viewer.is_staff {
        state.store.api_keys(user).await?
    } else {
        own_keys(&state, viewer).await?
    };
    Ok(Reply { message: "The API keys.".into(), data: keys.iter().map(api_key_data).collect() })
}

async fn create(
    viewer: Viewer,
    State(state): State<ApiState>,
    mut given: Fields,
) -> Result<Created<Value>, ApiError> {
    let user = given.given("user", fields::integer).unwrap_or(viewer.user);
    if !viewer.may_see(user) {
        given.wrong("user", "Only staff make keys for others.");
    }
    let is_staff = given.given("is_staff", fields::boolean).unwrap_or(false);
    if is_staff && !viewer.is_staff {
        given.wrong("is_staff", "Only staff make keys that are staff.");
    }
    let name = given.given("name", fields::name).unwrap_or_default();
    given.end()?;
    if !viewer.is_staff && own_keys(&state, viewer).await?.len() >= MOST_KEYS {
        return Err(ApiError::Conflict(
            format!("There are {MOST_KEYS} keys already: delete one first.").into(),
        ));
    }
    let now = state.clock.now();
    let new = NewApiKey { key_id: clock::new_id(now), name, user, is_staff, created_at: now };
    let (text, key) = new_api_key(clock::random_key(), new);
    state.store.add_api_key(&key).await?;
    let mut data = api_key_data(&key);
    data["key"] = json!(text);
    Ok(Created(Reply { message: "The API key. It is shown only now.".into(), data }))
}

async fn edit(
    viewer: Viewer,
    Id(key_id): Id,
    State(state): State<ApiState>,
    headers: HeaderMap,
    mut given: Fields,
) -> Result<Reply<Value>, ApiError> {
    let change = ApiKeyChange {
        name: given.given("name", fields::name),
        is_active: given.given("is_active", fields::boolean),
    };
    given.end()?;
    let key = state.store.change_api_key(key_id, scope(viewer), &change).await?.ok_or(NO_KEY)?;
    let message = match (key.is_active, is_with_key(&headers, &key)) {
        (false, true) => "The API key is not active any more, and this request was made with it.",
        _ => "The API key as it is now.",
    };
    Ok(Reply { message: message.into(), data: api_key_data(&key) })
}

async fn delete(
    viewer: Viewer,
    Id(key_id): Id,
    State(state): State<ApiState>,
    headers: HeaderMap,
) -> Result<Reply<Value>, ApiError> {
    let key = state.store.delete_api_key(key_id, scope(viewer)).await?.ok_or(NO_KEY)?;
    let message = if is_with_key(&headers, &key) {
        "The API key is deleted, and this request was made with it."
    } else {
        "The API key is deleted."
    };
    Ok(Reply { message: message.into(), data: json!({ "id": key_id }) })
}

/// Whose ordinary keys a viewer manages; staff manage all. A key that is staff is not its user's
/// to manage: what staff took back, an ordinary key must not give again.
fn scope(viewer: Viewer) -> Option<i64> {
    (!viewer.is_staff).then_some(viewer.user)
}

async fn own_keys(state: &ApiState, viewer: Viewer) -> Result<Vec<ApiKey>, ApiError> {
    let mut keys = state.store.api_keys(Some(viewer.user)).await?;
    keys.retain(|key| !key.is_staff);
    Ok(keys)
}
