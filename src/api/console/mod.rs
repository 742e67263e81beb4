//! The console at `/`: one page and what it loads, built in. It reads and acts through the API that
//! customers use, with a cookie instead of a key.

mod session;

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header;
use utoipa_axum::routes;

use super::error::ApiError;
use super::routes::Routes;

const PAGE: &str = include_str!("index.html");
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What the page loads: name, type, content.
static FILES: [(&str, &str, &str); 8] = [
    ("console.css", CSS, include_str!("console.css")),
    ("app.js", SCRIPT, include_str!("app.js")),
    ("kit.js", SCRIPT, include_str!("kit.js")),
    ("json.js", SCRIPT, include_str!("json.js")),
    ("overview.js", SCRIPT, include_str!("overview.js")),
    ("sessions.js", SCRIPT, include_str!("sessions.js")),
    ("webhooks.js", SCRIPT, include_str!("webhooks.js")),
    ("failures.js", SCRIPT, include_str!("failures.js")),
];

/// Nothing runs and nothing is fetched but from here; recordings may lie on another host.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; media-src 'self' https: http:; base-uri 'none'; \
                      form-action 'self'; frame-ancestors 'none'";

/// The page, its files, and signing in.
pub(super) fn routes() -> Routes {
    Routes::default().add("/", get(page)).add("/console/{file}", get(file)).both(routes!(
        session::show,
        session::sign_in,
        session::sign_out
    ))
}

async fn page() -> Response {
    shown("text/html; charset=utf-8", PAGE)
}

async fn file(Path(name): Path<String>) -> Result<Response, ApiError> {
    let found = FILES.iter().find(|(other, ..)| *other == name);
    let (_, content_type, content) = found.ok_or(ApiError::NoSuchRoute)?;
    Ok(shown(content_type, content))
}

fn shown(content_type: &'static str, content: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Another release may bring another page.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With what the first page asks for this stays far below 150 kB.
    #[test]
    fn the_whole_console_is_small() {
        let size: usize = FILES.iter().map(|(_, _, content)| content.len()).sum();
        assert!(PAGE.len() + size < 120_000, "{size}");
    }

    /// Text that others wrote must never become markup.
    #[test]
    fn no_script_makes_markup_or_code_of_text() {
        let scripts = FILES.iter().filter(|(_, kind, _)| *kind == SCRIPT);
        for (name, _, script) in scripts {
            for way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "createContextualFragment",
                "DOMParser",
                "setHTML",
                "srcdoc",
            ] {
                assert!(!script.contains(way), "{name}: {way}");
            }
        }
    }

    #[test]
    fn the_page_names_nothing_that_is_not_here() {
        let parts = PAGE.split("console/").skip(1);
        let named: Vec<&str> = parts.map(|rest| rest.split('"').next().unwrap()).collect();
        assert!(named.len() >= 2, "{named:?}");
        for name in named {
            assert!(FILES.iter().any(|(other, ..)| *other == name), "{name}");
        }
        assert!(!PAGE.contains("://"), "another host");
    }
}
