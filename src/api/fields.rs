//! Reads the members of a request, and names every one that is wrong.

use std::borrow::Cow;
use std::collections::HashMap;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use chrono::{DateTime, SubsecRound as _, Utc};
use http::StatusCode;
use http::request::Parts;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::ApiState;
use super::envelope::FieldError;
use super::error::ApiError;

/// The longest text that identifies something.
const LONGEST_NAME: usize = 512;

/// The members of a JSON object or of a query, taken one by one.
#[derive(Debug, Default)]
pub(super) struct Fields {
    given: Map<String, Value>,
    errors: Vec<FieldError>,
}

/// What reads a member, or says in one sentence what was expected.
type Read<T> = Result<T, String>;

impl Fields {
    /// Of these members.
    pub(super) fn new(given: Map<String, Value>) -> Self {
        Self { given, errors: Vec::new() }
    }

    /// The members, to be read more than once.
    pub(super) fn into_given(self) -> Map<String, Value> {
        self.given
    }

    /// Reads a member; `None` if it is not there, or wrong.
    pub(super) fn given<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Value) -> Read<T>,
    ) -> Option<T> {
        let value = self.given.remove(name)?;
        match read(&value) {
            Ok(read) => Some(read),
            Err(message) => {
                self.wrong(name, message);
                None
            }
        }
    }

    /// Reads a member that must be there.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Value) -> Read<T>,
    ) -> Option<T> {
        if self.given.contains_key(name) {
            return self.given(name, read);
        }
        self.wrong(name, "This is required.");
        None
    }

    /// Something is wrong with a member.
    pub(super) fn wrong(&mut self, name: &'static str, message: impl Into<String>) {
        self.errors.push(FieldError { field: name.into(), message: message.into() });
    }

    /// Ends the reading: an error if any member was wrong, or is left.
    pub(super) fn end(mut self) -> Result<(), ApiError> {
        for (name, _) in self.given {
            let message = "There is no such field.".to_owned();
            self.errors.push(FieldError { field: Cow::Owned(name), message });
        }
        if self.errors.is_empty() { Ok(()) } else { Err(ApiError::Invalid(self.errors)) }
    }
}

/// A body that is a JSON object; an empty one and `null` are as good as `{}`.
impl FromRequest<ApiState> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Self::Rejection> {
        let body =
            Bytes::from_request(request, state).await.map_err(|rejection| {
                match rejection.status() {
                    StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLarge("The body is above 1 MiB."),
                    _ => ApiError::invalid("body", "The body did not arrive whole."),
                }
            })?;
        if body.is_empty() {
            return Ok(Self::default());
        }
        match serde_json::from_slice(&body) {
            Ok(Value::Object(given)) => Ok(Self::new(given)),
            Ok(Value::Null) => Ok(Self::default()),
            Ok(_) => Err(ApiError::invalid("body", "Expected a JSON object.")),
            Err(error) => Err(ApiError::invalid("body", format!("This is no JSON: {error}."))),
        }
    }
}

/// The members of the query, each a text.
pub(super) struct QueryFields(pub(super) Fields);

impl FromRequestParts<ApiState> for QueryFields {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ApiState,
    ) -> Result<Self, Self::Rejection> {
        let query = Query::<HashMap<String, String>>::from_request_parts(parts, state).await;
        let Query(query) = query.map_err(|_| ApiError::invalid("query", "It cannot be read."))?;
        let given = query.into_iter().map(|(name, text)| (name, Value::String(text)));
        Ok(Self(Fields::new(given.collect())))
    }
}

/// The only id in the path. Of all forms of a UUID the one with 36 characters is an address.
pub(super) async fn id_in_path(
    parts: &mut Parts,
    state: &ApiState,
    name: &'static str,
) -> Result<Uuid, ApiError> {
    let path = Path::<String>::from_request_parts(parts, state).await.ok();
    let text = path.map_or(Value::Null, |Path(text)| Value::String(text));
    id(&text).map_err(|message| ApiError::invalid(name, message))
}

/// The member, or `None` for null.
pub(super) fn nullable<T>(
    read: impl FnOnce(&Value) -> Read<T>,
) -> impl FnOnce(&Value) -> Read<Option<T>> {
    move |value| if value.is_null() { Ok(None) } else { read(value).map(Some) }
}

/// A text.
pub(super) fn text(value: &Value) -> Read<&str> {
    value.as_str().ok_or_else(|| "Expected a text.".to_owned())
}

/// A text that identifies something.
pub(super) fn name(value: &Value) -> Read<String> {
    match text(value)? {
        "" => Err("Expected a text that is not empty.".to_owned()),
        name if name.len() > LONGEST_NAME => Err(format!("Expected at most {LONGEST_NAME} bytes.")),
        name if name.contains('\0') => Err("U+0000 has no place in it.".to_owned()),
        name => Ok(name.to_owned()),
    }
}

/// A whole number, which a query has as text. For JSON 7.0 is one (JSON Schema 2020-12, 4.2.3).
pub(super) fn integer(value: &Value) -> Read<i64> {
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    number.or_else(|| whole(value.as_f64()?)).ok_or_else(|| "Expected a whole number.".to_owned())
}

#[expect(clippy::cast_possible_truncation, reason = "whole, and far from the bounds")]
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 1e15).then_some(number as i64)
}

/// A whole number in a range.
pub(super) fn within(range: std::ops::RangeInclusive<u32>) -> impl FnOnce(&Value) -> Read<u32> {
    move |value| {
        let number = u32::try_from(integer(value)?).ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("Expected {} to {}.", range.start(), range.end()))
    }
}

/// A UUID.
pub(super) fn id(value: &Value) -> Read<Uuid> {
    let id = value.as_str().filter(|text| text.len() == 36);
    id.and_then(|text| Uuid::try_parse(text).ok())
        .ok_or_else(|| "Expected a UUID of 36 characters.".to_owned())
}

/// A time with its offset.
pub(super) fn time(value: &Value) -> Read<DateTime<Utc>> {
    let time = value.as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    time.map(|time| time.to_utc().trunc_subsecs(6))
        .ok_or_else(|| "Expected a time such as 2026-05-28T14:20:43Z.".to_owned())
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value) -> Read<bool> {
    value.as_bool().ok_or_else(|| "Expected true or false.".to_owned())
}

/// A list, each of whose elements is read alike.
pub(super) fn list<T>(
    longest: usize,
    read: impl Fn(&Value) -> Read<T>,
) -> impl FnOnce(&Value) -> Read<Vec<T>> {
    move |value| {
        let elements = value.as_array().ok_or_else(|| "Expected a list.".to_owned())?;
        if elements.len() > longest {
            return Err(format!("Expected at most {longest} elements."));
        }
        elements.iter().map(read).collect()
    }
}
