//! `GET /api/billing/sessions/{session_id}/`: a session as its owner reads it.

use axum::extract::{FromRequestParts, Path, State};
use http::request::Parts;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::ApiState;
use super::auth::Viewer;
use super::envelope::Reply;
use super::error::ApiError;
use crate::finalize::{RecordingStatus, Session, session_data};

/// A session's id in the path.
pub(super) struct SessionId(Uuid);

impl FromRequestParts<ApiState> for SessionId {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ApiState,
    ) -> Result<Self, Self::Rejection> {
        let path = Path::<String>::from_request_parts(parts, state).await.ok();
        // Of all forms of a UUID only the one with 36 characters is an address.
        path.filter(|Path(text)| text.len() == 36)
            .and_then(|Path(text)| Uuid::try_parse(&text).ok())
            .map(Self)
            .ok_or_else(|| {
                ApiError::invalid("session_id", "A session's id is a UUID of 36 characters.")
            })
    }
}

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
