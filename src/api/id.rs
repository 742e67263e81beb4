//! An id in the path.

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use uuid::Uuid;

use super::ApiState;
use super::error::ApiError;

/// What stands for `{id}`.
pub(super) struct Id(pub(super) Uuid);

impl FromRequestParts<ApiState> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ApiState,
    ) -> Result<Self, Self::Rejection> {
        let path = Path::<String>::from_request_parts(parts, state).await.ok();
        path.filter(|Path(text)| text.len() == 36)
            .and_then(|Path(text)| Uuid::try_parse(&text).ok())
            .map(Self)
            .ok_or_else(|| ApiError::invalid("id", "Expected a UUID of 36 characters."))
    }
}
