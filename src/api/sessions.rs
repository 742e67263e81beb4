//! `GET /api/billing/sessions/{session_id}/`: a session as its owner reads it.

use axum::extract::{FromRequestParts, State};
use http::request::Parts;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::ApiState;
use super::auth::Viewer;
use super::envelope::{Envelope, Refusal, Reply};
use super::error::ApiError;
use super::fields;
use crate::finalize::{RecordingStatus, Session, SessionData, session_data};

/// A session's id in the path.
pub(super) struct SessionId(Uuid);

impl FromRequestParts<ApiState> for SessionId {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ApiState,
    ) -> Result<Self, Self::Rejection> {
        fields::id_in_path(parts, state, "session_id").await.map(Self)
    }
}

/// One session
///
/// With its transcript, and a link to its recording.
#[utoipa::path(
    get, path = "/api/billing/sessions/{session_id}/", tag = "Sessions", operation_id = "get_session",
    params(("session_id" = Uuid, Path)),
    responses(
        (status = 200, description = "The session", body = Envelope<SessionData>),
        (status = 404, description = "There is no such session of a character of yours",
            body = Refusal),
    ),
)]
pub(super) async fn show(
    viewer: Viewer,
    SessionId(session_id): SessionId,
    State(state): State<ApiState>,
) -> Result<Reply<Box<RawValue>>, ApiError> {
    let session = state
        .store
        .session(session_id)
        .await?
        .filter(|session| viewer.may_see(session.character_owner))
        .ok_or(ApiError::NotFound("There is no such session."))?;
    let presigned_url = presign(&state, &session).await;
    let data = session_data(&session, presigned_url.as_deref());
    Ok(Reply { message: "The session.".into(), data })
}

async fn presign(state: &ApiState, session: &Session) -> Option<String> {
    let recording = &session.recording;
    let url = recording.url.as_deref().filter(|_| recording.status == RecordingStatus::Ready)?;
    state.places.presign(url, state.clock.now()).await
}
