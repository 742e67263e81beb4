//! `/api/auth/api-keys/`: who may read. Users manage their own keys, staff all.

use axum::extract::State;
use chrono::{DateTime, Utc};
use http::HeaderMap;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use super::ApiState;
use super::auth::{NewApiKey, Viewer, is_with_key, new_api_key};
use super::envelope::{Created, Envelope, Refusal, Reply};
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
    Routes::default().both(routes!(list, create)).both(routes!(edit, delete))
}

/// A key as everybody may see it who manages it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub struct ApiKeyData {
    id: Uuid,
    /// Its first characters.
    key_preview: String,
    name: String,
    /// Whose sessions it reads.
    user: i64,
    /// It reads everyone's.
    is_staff: bool,
    is_active: bool,
    created_at: DateTime<Utc>,
    /// To the minute.
    last_used_at: Option<DateTime<Utc>>,
}

/// A new key with its text, this once.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKeyWithText)]
pub struct ApiKeyTextData {
    #[serde(flatten)]
    key_data: ApiKeyData,
    /// `sk_` and 64 hexadecimal digits.
    key: String,
}

/// What a new key is to be.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "says what `create` reads")]
struct NewKey {
    /// Your own number, if you are not staff.
    #[schema(nullable = false)]
    user: Option<i64>,
    #[schema(nullable = false)]
    is_staff: Option<bool>,
    #[schema(nullable = false, min_length = 1, max_length = 512)]
    name: Option<String>,
}

/// What is to be different about a key.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "says what `edit` reads")]
struct KeyChange {
    #[schema(nullable = false, min_length = 1, max_length = 512)]
    name: Option<String>,
    #[schema(nullable = false)]
    is_active: Option<bool>,
}

/// What was deleted.
#[derive(Serialize, ToSchema)]
pub(super) struct Deleted {
    pub(super) id: Uuid,
}

impl From<&ApiKey> for ApiKeyData {
    fn from(key: &ApiKey) -> Self {
        Self {
            id: key.key_id,
            key_preview: key.preview.clone(),
            name: key.name.clone(),
            user: key.user,
            is_staff: key.is_staff,
            is_active: key.is_active,
            created_at: key.created_at,
            last_used_at: key.last_used_at,
        }
    }
}

impl ApiKeyData {
    /// Shows its text too.
    pub fn with_text(self, key: String) -> ApiKeyTextData {
        ApiKeyTextData { key_data: self, key }
    }
}

/// API keys
///
/// Your own; staff see all.
#[utoipa::path(
    get, path = "/api/auth/api-keys/", tag = "API keys", operation_id = "list_api_keys",
    params(("user" = Option<i64>, Query, description = "Only this user's")),
    responses((status = 200, description = "The keys", body = Envelope<Vec<ApiKeyData>>)),
)]
async fn list(
    viewer: Viewer,
    State(state): State<ApiState>,
    QueryFields(mut query): QueryFields,
) -> Result<Reply<Vec<ApiKeyData>>, ApiError> {
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
    Ok(Reply { message: "The API keys.".into(), data: keys.iter().map(ApiKeyData::from).collect() })
}

/// Make an API key
///
/// Its text is in the answer, and never shown again.
#[utoipa::path(
    post, path = "/api/auth/api-keys/", tag = "API keys", operation_id = "create_api_key",
    request_body = Option<NewKey>,
    responses(
        (status = 201, description = "The key", body = Envelope<ApiKeyTextData>),
        (status = 409, description = "You have too many already", body = Refusal),
    ),
)]
async fn create(
    viewer: Viewer,
    State(state): State<ApiState>,
    mut given: Fields,
) -> Result<Created<ApiKeyTextData>, ApiError> {
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
    let data = ApiKeyData::from(&key).with_text(text);
    Ok(Created(Reply { message: "The API key. It is shown only now.".into(), data }))
}

/// Rename an API key, revoke it or let it work again
#[utoipa::path(
    patch, path = "/api/auth/api-keys/{id}/", tag = "API keys", operation_id = "change_api_key",
    params(("id" = Uuid, Path)), request_body = Option<KeyChange>,
    responses(
        (status = 200, description = "The key", body = Envelope<ApiKeyData>),
        (status = 404, description = "You have no such key", body = Refusal),
    ),
)]
async fn edit(
    viewer: Viewer,
    Id(key_id): Id,
    State(state): State<ApiState>,
    headers: HeaderMap,
    mut given: Fields,
) -> Result<Reply<ApiKeyData>, ApiError> {
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
    Ok(Reply { message: message.into(), data: (&key).into() })
}

/// Delete an API key
#[utoipa::path(
    delete, path = "/api/auth/api-keys/{id}/", tag = "API keys", operation_id = "delete_api_key",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "It is gone", body = Envelope<Deleted>),
        (status = 404, description = "You have no such key", body = Refusal),
    ),
)]
async fn delete(
    viewer: Viewer,
    Id(key_id): Id,
    State(state): State<ApiState>,
    headers: HeaderMap,
) -> Result<Reply<Deleted>, ApiError> {
    let key = state.store.delete_api_key(key_id, scope(viewer)).await?.ok_or(NO_KEY)?;
    let message = if is_with_key(&headers, &key) {
        "The API key is deleted, and this request was made with it."
    } else {
        "The API key is deleted."
    };
    Ok(Reply { message: message.into(), data: Deleted { id: key_id } })
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
