//! What happens around every route: one log line, CORS, panics caught, a limit in time.

use std::any::Any;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;

use super::cors::Origins;
use super::error::ApiError;

/// From the request's headers to the answer's; what streams afterwards is not counted.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// Puts the layers around the routes; the last one added is the outermost.
pub(super) fn wrap<S: Clone + Send + Sync + 'static>(
    routes: Router<S>,
    origins: &Origins,
) -> Router<S> {
    let caught = routes.layer(from_fn(in_time)).layer(CatchPanicLayer::custom(after_panic));
    let shared = match origins.layer() {
        Some(layer) => caught.layer(layer),
        None => caught,
    };
    shared.layer(from_fn(log))
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::TimedOut.into_response(),
    }
}

/// The panic hook has told where; what the panic said may hold a customer's text.
fn after_panic(_panic: Box<dyn Any + Send>) -> Response {
    tracing::error!("a request panicked");
    ApiError::Internal.into_response()
}

/// The route's pattern, never the request's own path or query: they hold ids and signatures.
async fn log(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let started = Instant::now();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let status = response.status().as_u16();
    let duration_ms = started.elapsed().as_secs_f64() * 1000.0;
    if matches!(route, "/livez" | "/readyz") {
        tracing::debug!(http.method = %method, http.route = route, http.status = status, duration_ms, "answered a probe");
    } else {
        tracing::info!(http.method = %method, http.route = route, http.status = status, duration_ms, "answered a request");
    }
    response
}
