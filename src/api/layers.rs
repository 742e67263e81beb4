//! What happens around every route: one log line, CORS, panics caught, a limit in time.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;

use super::cors::Origins;
use super::error::ApiError;
use crate::metrics::Metrics;

/// From the request's headers to the answer's; what streams afterwards is not counted.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// Puts the layers around the routes; the last one added is the outermost.
pub(super) fn wrap<S: Clone + Send + Sync + 'static>(
    routes: Router<S>,
    origins: &Origins,
    metrics: Arc<Metrics>,
) -> Router<S> {
    let caught = routes.layer(from_fn(in_time)).layer(CatchPanicLayer::custom(after_panic));
    let shared = match origins.layer() {
        Some(layer) => caught.layer(layer),
        None => caught,
    };
    shared.layer(from_fn_with_state(metrics, note))
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
async fn note(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let started = Instant::now();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let status = response.status().as_u16();
    let duration = started.elapsed().as_secs_f64();
    measure(&metrics, route, status, duration);
    let duration_ms = duration * 1000.0;
    if matches!(route, "/livez" | "/readyz" | "/metrics") {
        tracing::debug!(%method, route, status, duration_ms, "answered a probe");
    } else {
        tracing::info!(%method, route, status, duration_ms, "answered a request");
    }
    response
}

fn measure(metrics: &Metrics, route: &str, status: u16, seconds: f64) {
    let class = match status {
        ..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    };
    let route = route.trim_end_matches('/');
    let labels = [("route", route.to_owned()), ("status", class.to_owned())];
    metrics.requests.get_or_create(&labels).observe(seconds);
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use http::{Method, StatusCode, header};
    use serde_json::{Value, json};
    use tower::ServiceExt as _;

    use super::*;

    async fn call(origins: &[&str], request: http::request::Builder) -> Response {
        let routes = Router::new()
            .route("/", get(async || "fine"))
            .route("/panics", get(async || -> () { panic!("a customer's text") }));
        let routes = wrap(routes, &Origins::parse(origins).unwrap(), Arc::default());
        routes.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    fn allowed_origin(response: &Response) -> Option<&str> {
        response.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN)?.to_str().ok()
    }

    #[tokio::test]
    async fn a_panic_is_a_500_that_tells_nothing() {
        let response = call(&[], Request::builder().uri("/panics")).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&body).unwrap(),
            json!({
                "success": false, "message": "Something went wrong on our side.",
                "data": null, "errors": null,
            })
        );
    }

    #[tokio::test]
    async fn only_listed_origins_may_call_from_a_browser() {
        let from = |origin| Request::builder().uri("/").header(header::ORIGIN, origin);
        let page = "https://app.example.com";
        assert_eq!(allowed_origin(&call(&[], from(page)).await), None);
        assert_eq!(allowed_origin(&call(&[page], from(page)).await), Some(page));
        assert_eq!(allowed_origin(&call(&[page], from("https://evil.example")).await), None);
        assert_eq!(allowed_origin(&call(&["*"], from(page)).await), Some("*"));
    }

    #[tokio::test]
    async fn a_browser_may_send_a_key_after_asking() {
        let page = "https://app.example.com";
        let ask = Request::builder()
            .method(Method::OPTIONS)
            .uri("/")
            .header(header::ORIGIN, page)
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "GET")
            .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "x-api-key");
        let response = call(&[page], ask).await;
        assert_eq!(response.status(), StatusCode::OK);
        let allowed = response.headers()[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap();
        assert!(allowed.contains("x-api-key"), "{allowed}");
    }
}
