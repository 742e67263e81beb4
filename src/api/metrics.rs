//! `/metrics`: what the process has counted and measured, for Prometheus.

use axum::extract::State;
use axum::response::IntoResponse;
use http::header;

use super::probes::Probes;
use crate::metrics::CONTENT_TYPE;

/// What has this process counted and measured?
///
/// In the text format of OpenMetrics.
#[utoipa::path(
    get, path = "/metrics", tag = "Health", operation_id = "metrics", security(()),
    responses((
        status = 200, description = "All metrics", body = String,
        content_type = "application/openmetrics-text",
    )),
)]
pub(super) async fn show(State(probes): State<Probes>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], probes.scrape().await)
}
