//! `POST /api/livekit/webhook/`: what a `LiveKit` server says of its egresses, answered after the
//! commit. Signed as `LiveKit`'s SDKs verify it: the `Authorization` header is a JWT of the API key,
//! and its `sha256` claim covers the body.

use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{HeaderMap, StatusCode, header};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use super::ApiState;
use super::auth::unix_seconds;
use super::envelope::{Envelope, Refusal, Reply};
use super::error::ApiError;
use super::intake::OpenIntake;
use crate::intake::{Disposition, Patience, livekit};

/// How far `LiveKit`'s clock and ours may stand apart; its SDKs allow as much.
const LEEWAY_S: f64 = 60.0;

const CONTENT_TYPE: &str = "application/webhook+json";

const UNSIGNED: &str =
    "The webhook is not signed with the API key and secret that this server was given.";

/// A `LiveKit` project's API key and secret, which sign its webhooks.
pub struct LivekitKey {
    api_key: String,
    secret: DecodingKey,
}

/// What became of a webhook.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WebhookAnswer {
    /// `accepted`, `duplicate`, `failed` (it is kept) or `ignored`.
    status: &'static str,
}

/// The claims we read. Numbers may have fractions (RFC 7519).
#[derive(Deserialize)]
struct Claims {
    iss: String,
    exp: f64,
    nbf: Option<f64>,
    sha256: String,
}

impl LivekitKey {
    /// The key with its secret.
    pub fn new(api_key: &str, secret: &str) -> Self {
        let secret = DecodingKey::from_secret(secret.as_bytes());
        Self { api_key: api_key.to_owned(), secret }
    }

    fn has_signed(&self, headers: &HeaderMap, body: &[u8], now: DateTime<Utc>) -> bool {
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        token.and_then(|token| self.claims(token)).is_some_and(|claims| {
            claims.iss == self.api_key && claims.is_in_time(now) && claims.covers(body)
        })
    }

    fn claims(&self, token: &str) -> Option<Claims> {
        let token = token.strip_prefix("Bearer ").unwrap_or(token);
        let mut terms = Validation::new(Algorithm::HS256);
        // The library would ask the machine for the time.
        terms.validate_exp = false;
        terms.validate_aud = false;
        terms.required_spec_claims.clear();
        Some(decode(token, &self.secret, &terms).ok()?.claims)
    }
}

impl Claims {
    fn is_in_time(&self, now: DateTime<Utc>) -> bool {
        let now_s = unix_seconds(now);
        now_s < self.exp + LEEWAY_S && self.nbf.is_none_or(|nbf| now_s + LEEWAY_S >= nbf)
    }

    fn covers(&self, body: &[u8]) -> bool {
        // The digest is no secret: the token's signature is what proves it.
        STANDARD.decode(&self.sha256).is_ok_and(|claimed| claimed == Sha256::digest(body)[..])
    }
}

/// LiveKit's webhooks
///
/// Takes a webhook. `LiveKit` sends it again after a 5xx, and after nothing else.
#[utoipa::path(
    post, path = "/api/livekit/webhook/", tag = "Intake", operation_id = "take_livekit_webhook",
    request_body(content = Object, content_type = "application/webhook+json"),
    security(("LiveKit" = [])),
    responses(
        (status = 200, description = "It is taken", body = Envelope<WebhookAnswer>),
        (status = 413, description = "The body is above 1 MiB", body = Refusal),
    ),
)]
pub(super) async fn take(
    OpenIntake(intake): OpenIntake,
    State(state): State<ApiState>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Reply<WebhookAnswer>, ApiError> {
    let key = state.livekit.ok_or(ApiError::NoSuchRoute)?;
    let body = body.map_err(unread)?;
    let now = intake.parts().clock.now();
    if !key.has_signed(&headers, &body, now) {
        return Err(ApiError::Unauthorized(UNSIGNED));
    }
    if !is_webhook(&headers) {
        let sentence = format!("Expected {CONTENT_TYPE}, found another type.");
        return Err(ApiError::invalid("Content-Type", sentence));
    }
    match livekit::event_of(&body) {
        None => Ok(reply("ignored")),
        Some(event) => answer(intake.take(vec![event], Patience::Now).await.first()),
    }
}

fn is_webhook(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|text| text.split(';').next()).unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(CONTENT_TYPE)
}

fn unread(rejection: BytesRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::TooLarge("The body is longer than 1 MiB: no webhook of LiveKit's is.");
    }
    rejection.into()
}

fn answer(disposition: Option<&Disposition>) -> Result<Reply<WebhookAnswer>, ApiError> {
    match disposition {
        Some(Disposition::Done { .. }) => Ok(reply("accepted")),
        Some(Disposition::Duplicate { .. }) => Ok(reply("duplicate")),
        // It is kept, and would be no better the next time.
        Some(Disposition::Rejected { .. }) => Ok(reply("failed")),
        Some(Disposition::Retry) | None => {
            Err(ApiError::Unavailable("The webhook cannot be taken right now; send it again."))
        }
    }
}

fn reply(status: &'static str) -> Reply<WebhookAnswer> {
    Reply { message: "The webhook is taken.".into(), data: WebhookAnswer { status } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_taken_now_is_to_be_sent_again() {
        let again = |disposition| answer(disposition).err();
        for disposition in [Some(&Disposition::Retry), None] {
            assert!(matches!(again(disposition), Some(ApiError::Unavailable(_))));
        }
    }
}
