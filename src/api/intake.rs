//! Who takes events, in a process that takes any.

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::ApiState;
use super::error::ApiError;
use crate::intake::Intake;

/// The intake of this process; without one the route is as good as not there.
pub(super) struct OpenIntake(pub(super) Intake);

impl FromRequestParts<ApiState> for OpenIntake {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, state: &ApiState) -> Result<Self, Self::Rejection> {
        state.intake.clone().map(Self).ok_or(ApiError::NoSuchRoute)
    }
}
