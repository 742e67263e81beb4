//! `/openapi.json`: the API described as OpenAPI 3.1, made from the routes and their types.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::header;
use serde_json::Value;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ComponentsBuilder, Content, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, PathItem,
    Ref, RefOr, ResponseBuilder, SecurityRequirement, Server,
};
use utoipa::{PartialSchema as _, ToSchema as _};

use super::envelope::{FieldError, Refusal};
use super::routes::Routes;

/// What the routes are about, in the order in which a reader meets them.
const TAGS: [(&str, &str); 7] = [
    ("Sessions", "Calls as customers read them, and their recordings."),
    ("Webhooks", "Who is told, what became of it, and telling it again."),
    ("API keys", "Who may read."),
    ("Intake", "How calls come in."),
    ("Failures", "Events that could not be finalized, and taking them once more."),
    ("Console", "How the work is going, and signing in to the page at `/` with a browser."),
    ("Health", "For whoever runs the service."),
];

/// What any route may answer beside what is said of it: status and when.
const EVERYWHERE: [(&str, &str); 1] = [("408", "The request took too long")];
/// What a route of the API may answer as well.
const IN_API: [(&str, &str); 3] = [
    ("400", "A part of the request makes no sense: `errors` names it"),
    ("401", "Nobody we know"),
    ("503", "Trouble that passes: try again after `Retry-After` seconds"),
];

/// The description.
pub fn description() -> OpenApi {
    let Routes { mut described, schemas, .. } = super::routes();
    for (path, item) in &mut described.paths {
        operations(item).for_each(|operation| add_refusals(path, operation));
    }
    let license = LicenseBuilder::new().name("MIT OR Apache-2.0").build();
    let info = InfoBuilder::new()
        .title("Finalizer")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(env!("CARGO_PKG_DESCRIPTION")))
        .license(Some(license));
    let tags =
        TAGS.map(|(name, about)| TagBuilder::new().name(name).description(Some(about)).build());
    let components = ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .schema(Refusal::name(), Refusal::schema())
        .schema(FieldError::name(), FieldError::schema())
        .security_scheme(KEY, SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))))
        .security_scheme(TOKEN, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)))
        .security_scheme(LIVEKIT, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    let either = [KEY, TOKEN].map(|scheme| SecurityRequirement::new(scheme, [""; 0]));
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([Server::new("/")]))
        .tags(Some(tags))
        .security(Some(either))
        .paths(described)
        .components(Some(components.build()))
        .build()
}

/// An API key; it wins when a token comes too.
const KEY: &str = "API key";
/// A JWT.
const TOKEN: &str = "Token";
/// What `LiveKit` signs its webhooks with.
const LIVEKIT: &str = "LiveKit";

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, post, patch, delete, .. } = item;
    [get, post, patch, delete].into_iter().filter_map(Option::as_mut)
}

/// Adds what the route may answer without its saying so.
fn add_refusals(path: &str, operation: &mut Operation) {
    let in_api = if path.starts_with("/api/") { &IN_API[..] } else { &[] };
    for (status, when) in EVERYWHERE.iter().chain(in_api) {
        let schema = RefOr::Ref(Ref::from_schema_name(Refusal::name()));
        let response = ResponseBuilder::new()
            .description(*when)
            .content("application/json", Content::new(Some(schema)))
            .build();
        let responses = &mut operation.responses.responses;
        responses.entry((*status).to_owned()).or_insert(RefOr::T(response));
    }
}

/// The description, as it is sent.
static JSON: LazyLock<String> =
    LazyLock::new(|| description().to_json().expect("a description is plain data"));

/// The description, to be walked through.
pub(super) fn as_value() -> Value {
    serde_json::to_value(description()).expect("a description is plain data")
}

pub(super) async fn show() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], JSON.as_str()).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_described_but_the_description_itself() {
        let Routes { paths, described, .. } = crate::api::routes();
        let said = |path: &String| {
            let path = path.replace("{*path}", "{path}");
            described.paths.contains_key(&path) || described.paths.contains_key(&format!("{path}/"))
        };
        let silent: Vec<_> = paths.iter().filter(|path| !said(path)).collect();
        assert_eq!(silent, ["/", "/console/{file}", "/openapi.json", "/docs"]);
    }

    #[test]
    fn every_operation_has_a_name_of_its_own() {
        let mut api = description();
        let mut names = BTreeSet::new();
        for (path, item) in &mut api.paths.paths {
            for operation in operations(item) {
                let name = operation.operation_id.clone().unwrap();
                assert!(names.insert(name.clone()), "{path}: another one is called {name}");
            }
        }
        assert!(names.len() > 20, "{names:?}");
    }

    #[test]
    fn every_type_that_is_named_is_there() {
        let api = as_value();
        let text = api.to_string();
        for name in text.split("#/components/schemas/").skip(1) {
            let name = name.split('"').next().unwrap();
            assert!(api["components"]["schemas"][name].is_object(), "{name}");
        }
    }
}
