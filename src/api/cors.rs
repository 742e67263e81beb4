//! Whose pages may call the API from a browser.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{Any, CorsLayer};
use url::Url;

/// The origins of `--cors-origin`; none by default.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    listed: Vec<HeaderValue>,
    is_any: bool,
}

/// A text that is no origin.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no origin: write it like https://app.example.com, without a path")]
pub struct OriginError(String);

impl Origins {
    /// Reads a list of origins; `*` stands for all.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, OriginError> {
        let mut origins = Self::default();
        for text in texts.iter().map(AsRef::as_ref).filter(|text| !text.is_empty()) {
            if text == "*" {
                origins.is_any = true;
            } else {
                origins.listed.push(parse_origin(text)?);
            }
        }
        Ok(origins)
    }

    pub(super) fn layer(&self) -> Option<CorsLayer> {
        let layer = CorsLayer::new()
            .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
            .allow_headers([
                header::AUTHORIZATION,
                header::CONTENT_TYPE,
                HeaderName::from_static("x-api-key"),
            ])
            .max_age(Duration::from_hours(1));
        match self {
            Self { is_any: true, .. } => Some(layer.allow_origin(Any)),
            Self { listed, .. } if listed.is_empty() => None,
            Self { listed, .. } => Some(layer.allow_origin(listed.clone())),
        }
    }
}

fn parse_origin(text: &str) -> Result<HeaderValue, OriginError> {
    let refused = || OriginError(text.to_owned());
    let url = Url::parse(text).map_err(|_| refused())?;
    let origin = url.origin().ascii_serialization();
    if !matches!(url.scheme(), "http" | "https") || origin != text {
        return Err(refused());
    }
    HeaderValue::from_str(&origin).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_a_scheme_and_a_host_and_nothing_else() {
        assert!(Origins::parse(&["https://app.example.com", "http://localhost:3000"]).is_ok());
        for text in ["app.example.com", "https://app.example.com/", "ftp://a.example", "null"] {
            assert!(Origins::parse(&[text]).is_err(), "{text}");
        }
    }

    #[test]
    fn without_origins_there_is_no_layer() {
        assert!(Origins::default().layer().is_none());
        assert!(Origins::parse(&[""]).unwrap().layer().is_none());
    }
}
