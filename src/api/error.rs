//! What can go wrong with a request. The only place that chooses HTTP statuses.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;

use super::envelope::{FieldError, Refusal};
use crate::store::StoreError;

/// Why a request is not answered with what it asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// A part of the request makes no sense.
    #[error("The request is not valid.")]
    Invalid(Vec<FieldError>),
    /// Nobody we know.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// Somebody we know, but not for this.
    #[error("{0}")]
    Forbidden(Cow<'static, str>),
    /// Not there, or not to be seen by this caller: the same.
    #[error("{0}")]
    NotFound(&'static str),
    /// It cannot be done as things stand; the sentence says what to do first.
    #[error("{0}")]
    Conflict(Cow<'static, str>),
    /// No such path.
    #[error("There is nothing at this address.")]
    NoSuchRoute,
    /// The path is there, but not with this method.
    #[error("This address does not take this method.")]
    MethodNotAllowed,
    /// The client was too slow.
    #[error("The request took too long.")]
    TimedOut,
    /// The body is too long.
    #[error("{0}")]
    TooLarge(&'static str),
    /// The range lies outside the recording; the header says how long it is.
    #[error("The range lies outside the recording.")]
    RangeNotSatisfiable(Option<HeaderValue>),
    /// Trouble that passes.
    #[error("{0}")]
    Unavailable(&'static str),
    /// `/readyz`, with what ails the parts.
    #[error("Not ready.")]
    NotReady(Value),
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect.
    #[error("Something went wrong on our side.")]
    Internal,
}

impl ApiError {
    /// One part of the request makes no sense.
    pub(super) fn invalid(field: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError { field: field.into(), message: message.into() }])
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) | Self::NoSuchRoute => StatusCode::NOT_FOUND,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::TimedOut => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RangeNotSatisfiable(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Unavailable(_) | Self::NotReady(_) | Self::Store(StoreError::Transient(_)) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Store(StoreError::Rejected(_) | StoreError::Broken(_)) | Self::Internal => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// What the caller is told: never the database's own words.
    fn sentence(&self) -> Cow<'static, str> {
        match self {
            Self::Store(StoreError::Transient(_)) => {
                "The database is not answering; try again.".into()
            }
            Self::Store(StoreError::Rejected(_) | StoreError::Broken(_)) => {
                Self::Internal.to_string().into()
            }
            other => other.to_string().into(),
        }
    }

    fn header(&self, status: StatusCode) -> Option<(header::HeaderName, HeaderValue)> {
        match self {
            Self::RangeNotSatisfiable(size) => Some((header::CONTENT_RANGE, size.clone()?)),
            _ if status == StatusCode::UNAUTHORIZED => Some((
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(r#"Bearer realm="finalizer""#),
            )),
            _ if status == StatusCode::SERVICE_UNAVAILABLE => {
                Some((header::RETRY_AFTER, HeaderValue::from_static("5")))
            }
            _ => None,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Self::Store(error) = &self {
            tracing::error!(%error, "a request failed on the database");
        }
        let status = self.status();
        let message = self.sentence();
        let header = self.header(status);
        let (data, errors) = match self {
            Self::Invalid(errors) => (None, Some(errors)),
            Self::NotReady(parts) => (Some(parts), None),
            _ => (None, None),
        };
        let mut response = Refusal { success: false, message, data, errors }.into_response();
        *response.status_mut() = status;
        response.headers_mut().extend(header);
        response
    }
}
