//! What every answer looks like: `{success, message, data, errors}`.

use std::borrow::Cow;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// Every answer's body.
#[derive(Serialize)]
pub(super) struct Envelope<T> {
    /// The request did what it was to do.
    pub(super) success: bool,
    /// One sentence for people.
    pub(super) message: Cow<'static, str>,
    /// What was asked for; null if there is nothing.
    pub(super) data: Option<T>,
    /// Which parts of the request are wrong; null if none.
    pub(super) errors: Option<Vec<FieldError>>,
}

/// A part of the request that is wrong.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct FieldError {
    /// Which.
    pub(super) field: Cow<'static, str>,
    /// What is wrong with it.
    pub(super) message: String,
}

/// A good answer.
pub(super) struct Reply<T> {
    /// One sentence for people.
    pub(super) message: Cow<'static, str>,
    /// What was asked for.
    pub(super) data: T,
}

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        let Self { message, data } = self;
        Envelope { success: true, message, data: Some(data), errors: None }.into_response()
    }
}

/// A good answer to a request that made something.
pub(super) struct Created<T>(pub(super) Reply<T>);

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        (StatusCode::CREATED, self.0).into_response()
    }
}

impl<T: Serialize> IntoResponse for Envelope<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self).into_response();
        // What one customer may read must not lie in a cache between us and the next.
        let no_store = HeaderValue::from_static("no-store");
        response.headers_mut().insert(header::CACHE_CONTROL, no_store);
        response
    }
}
