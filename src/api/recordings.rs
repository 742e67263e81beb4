//! `GET /recordings/{path}`: plays a recording out of a folder to whoever has a signed link.

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;
use tower_http::services::ServeFile;

use super::ApiState;
use super::envelope::Refusal;
use super::error::ApiError;
use crate::recordings::{LinkError, Playable};

/// What a link carries; whatever is missing makes it a forged one.
#[derive(Deserialize)]
pub(super) struct Link {
    #[serde(default)]
    expires: String,
    #[serde(default)]
    signature: String,
}

/// Play a recording
///
/// `GET` and `HEAD`, whole or a range.
#[utoipa::path(
    get, path = "/recordings/{path}", tag = "Sessions", operation_id = "play_recording", security(()),
    params(
        ("path" = String, Path), ("expires" = String, Query), ("signature" = String, Query),
        ("Range" = Option<String>, Header),
    ),
    responses(
        (status = 200, description = "The recording", content_type = "*/*", body = [u8]),
        (status = 206, description = "A part of it", content_type = "*/*", body = [u8]),
        (status = 304, description = "It has not changed"),
        (status = 403, description = "The link is not signed by us, or has expired",
            body = Refusal),
        (status = 404, description = "The recording is not there", body = Refusal),
        (status = 412, description = "It has changed"),
        (status = 416, description = "The range lies outside the recording", body = Refusal),
    ),
)]
pub(super) async fn play(
    State(state): State<ApiState>,
    path: Result<Path<String>, PathRejection>,
    link: Result<Query<Link>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let (Ok(Path(path)), Ok(Query(link))) = (path, link) else {
        return Err(LinkError::Forged.into());
    };
    let now = state.clock.now();
    let playable = state.places.open_link(&path, &link.expires, &link.signature, now).await?;
    stream(playable, request).await
}

async fn stream(playable: Playable, request: Request) -> Result<Response, ApiError> {
    let Playable { path, content_type } = playable;
    let served = ServeFile::new(path).try_call(request).await.map_err(|error| {
        tracing::warn!(%error, "a recording could not be read");
        ApiError::Unavailable("The recording cannot be read right now.")
    })?;
    let mut response = served.map(Body::new);
    match response.status() {
        StatusCode::RANGE_NOT_SATISFIABLE => {
            let size = response.headers_mut().remove(header::CONTENT_RANGE);
            Err(ApiError::RangeNotSatisfiable(size))
        }
        // It went away between the look and the reading.
        StatusCode::NOT_FOUND => Err(LinkError::Gone.into()),
        _ => {
            for (name, value) in headers(content_type) {
                // In place of what was guessed from the name: `extend` would send both.
                response.headers_mut().insert(name, value);
            }
            Ok(response.into_response())
        }
    }
}

fn headers(content_type: &'static str) -> [(HeaderName, HeaderValue); 3] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CACHE_CONTROL, HeaderValue::from_static("private")),
    ]
}

impl From<LinkError> for ApiError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Forged => Self::Forbidden("This link was not made by us.".into()),
            LinkError::Expired => {
                Self::Forbidden("This link has expired: read the session again.".into())
            }
            LinkError::Gone => Self::NotFound("The recording is not there."),
        }
    }
}
