//! What every answer looks like: `{success, message, data, errors}`.

use std::borrow::Cow;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// The body of a good answer.
#[derive(Serialize, ToSchema)]
pub(super) struct Envelope<T> {
    /// Always true.
    success: bool,
    /// One sentence for people.
    message: Cow<'static, str>,
    /// What was asked for.
    data: T,
    /// Always null.
    errors: Option<Vec<FieldError>>,
}

/// The body of an answer to a request that was not answered with what it asked for.
#[derive(Serialize, ToSchema)]
pub(super) struct Refusal {
    /// Always false.
    pub(super) success: bool,
    /// One sentence for people.
    pub(super) message: Cow<'static, str>,
    /// What there is to say for programs; null if nothing.
    #[schema(value_type = Option<Object>)]
    pub(super) data: Option<Value>,
    /// Which parts of the request are wrong; null if none.
    pub(super) errors: Option<Vec<FieldError>>,
}

/// A part of the request that is wrong.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
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
        answer(&Envelope { success: true, message, data, errors: None })
    }
}

/// A good answer to a request that made something.
pub(super) struct Created<T>(pub(super) Reply<T>);

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        (StatusCode::CREATED, self.0).into_response()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        answer(&self)
    }
}

fn answer(body: &impl Serialize) -> Response {
    let mut response = Json(body).into_response();
    // What one customer may read must not lie in a cache between us and the next.
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}
