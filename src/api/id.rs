//! An id in the path.

use axum::extract::FromRequestParts;
use http::request::Parts;
use uuid::Uuid;

use super::ApiState;
use super::error::ApiError;
use super::fields;

/// What stands for `{id}`.
pub(super) struct Id(pub(super) Uuid);

impl FromRequestParts<ApiState> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ApiState,
    ) -> Result<Self, Self::Rejection> {
        fields::id_in_path(parts, state, "id").await.map(Self)
    }
}
