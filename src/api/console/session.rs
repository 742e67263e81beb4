//! `/api/console/session/`: an API key signs in to the console and gets a cookie; signing out.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::ApiState;
use super::super::auth::{SignIn, Viewer, clearing, csrf_token};
use super::super::envelope::{Envelope, Reply};

/// Who is signed in.
#[derive(Serialize, ToSchema)]
#[schema(as = ConsoleSession)]
pub(super) struct SessionData {
    user: i64,
    is_staff: bool,
    /// To be sent as `X-CSRF-Token` with everything but `GET`; null without a cookie.
    csrf_token: Option<String>,
}

/// Nothing more to say.
#[derive(Serialize, ToSchema)]
pub(super) struct SignedOut {}

/// Who is signed in
#[utoipa::path(
    get, path = "/api/console/session/", tag = "Console", operation_id = "get_console_session",
    responses((status = 200, description = "You", body = Envelope<SessionData>)),
)]
pub(super) async fn show(
    viewer: Viewer,
    State(state): State<ApiState>,
    headers: HeaderMap,
) -> Reply<SessionData> {
    let Viewer { user, is_staff } = viewer;
    let csrf_token = csrf_token(&state, &headers);
    let data = SessionData { user, is_staff, csrf_token };
    Reply { message: "Who is signed in.".into(), data }
}

/// Sign in
///
/// With an API key (`X-API-Key`). The answer sets a cookie, with which a browser may call the API for
/// 12 hours, or until the key is stopped.
#[utoipa::path(
    post, path = "/api/console/session/", tag = "Console", operation_id = "sign_in",
    responses((status = 200, description = "You", body = Envelope<SessionData>)),
)]
pub(super) async fn sign_in(sign_in: SignIn) -> Response {
    let SignIn { viewer: Viewer { user, is_staff }, csrf_token, set_cookie } = sign_in;
    let data = SessionData { user, is_staff, csrf_token: Some(csrf_token) };
    let reply = Reply { message: "You are signed in.".into(), data };
    ([(header::SET_COOKIE, set_cookie)], reply).into_response()
}

/// Sign out
///
/// The browser forgets the cookie.
#[utoipa::path(
    delete, path = "/api/console/session/", tag = "Console", operation_id = "sign_out",
    responses((status = 200, description = "You are signed out", body = Envelope<SignedOut>)),
)]
pub(super) async fn sign_out(_viewer: Viewer, State(state): State<ApiState>) -> Response {
    let reply = Reply { message: "You are signed out.".into(), data: SignedOut {} };
    ([(header::SET_COOKIE, clearing(&state))], reply).into_response()
}
