//! `/docs`: the API's description as a page for people, without a script, a picture or another host.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::response::{Html, IntoResponse, Response};
use http::header;
use serde_json::{Map, Value};

use super::openapi;

/// How the page looks, light and dark, on every width.
const STYLE: &str = include_str!("docs.css");

/// The page holds nothing that runs, and fetches nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

static PAGE: LazyLock<String> = LazyLock::new(|| page(&openapi::as_value()));

pub(super) async fn show() -> Response {
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(PAGE.as_str())).into_response()
}

fn page(api: &Value) -> String {
    let title = escaped(text(&api["info"]["title"]));
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content='width=device-width'><title>{title}: the API</title>\
         <style>{STYLE}</style><main><h1>{title}: the API</h1><p>{} Release {}. For programs: \
         <a href=openapi.json>openapi.json</a>.</p><p>Give an API key (<code>X-API-Key</code>) or \
         a JWT (<code>Authorization: Bearer</code>) with every request. Every answer is \
         <code>{{success, message, data, errors}}</code>; the types below that begin with \
         <code>Envelope</code> are such.</p>",
        escaped(text(&api["info"]["description"])),
        escaped(text(&api["info"]["version"])),
    );
    for tag in list(&api["tags"]) {
        let name = text(&tag["name"]);
        push(&mut page, format_args!("<h2>{}</h2>", escaped(name)));
        push(&mut page, format_args!("<p>{}</p>", escaped(text(&tag["description"]))));
        for (path, methods) in members(&api["paths"]) {
            for (method, operation) in members(methods) {
                if list(&operation["tags"]).any(|tag| tag == name) {
                    add_operation(&mut page, path, method, operation);
                }
            }
        }
    }
    page.push_str("<h2>Types</h2>");
    for (name, schema) in members(&api["components"]["schemas"]) {
        add_type(&mut page, name, schema);
    }
    page.push_str("</main></html>");
    page
}

fn add_operation(page: &mut String, path: &str, method: &str, operation: &Value) {
    let summary = escaped(text(&operation["summary"]));
    let method = method.to_uppercase();
    push(page, format_args!("<details><summary><b>{method}</b> <code>{path}</code> {summary}"));
    let about = escaped(text(&operation["description"]));
    push(page, format_args!("</summary><p>{about}</p><table>"));
    for parameter in list(&operation["parameters"]) {
        let (name, place) = (text(&parameter["name"]), text(&parameter["in"]));
        let kind = kind(&parameter["schema"]);
        row(page, &format!("{name} ({place})"), &kind, text(&parameter["description"]));
    }
    for (content_type, content) in members(&operation["requestBody"]["content"]) {
        row(page, &format!("body ({content_type})"), &kind(&content["schema"]), "");
    }
    for (status, response) in members(&operation["responses"]) {
        let mut contents = members(&response["content"]);
        let kind = contents.next().map(|(_, content)| kind(&content["schema"]));
        row(page, status, &kind.unwrap_or_default(), text(&response["description"]));
    }
    page.push_str("</table></details>");
}

fn add_type(page: &mut String, name: &str, schema: &Value) {
    let name = escaped(name);
    push(page, format_args!("<details id='{name}'><summary><code>{name}</code></summary>"));
    push(page, format_args!("<p>{}</p>", escaped(text(&schema["description"]))));
    let parts: Vec<&Value> = match schema["allOf"].as_array() {
        Some(parts) => parts.iter().collect(),
        None => vec![schema],
    };
    page.push_str("<table>");
    for part in parts {
        let mut fields = members(&part["properties"]).peekable();
        if fields.peek().is_none() {
            row(page, "", &kind(part), "");
        }
        for (field, schema) in fields {
            row(page, field, &kind(schema), text(&schema["description"]));
        }
    }
    page.push_str("</table></details>");
}

/// A row of a table: what, of which type (as HTML), and what it means.
fn row(page: &mut String, name: &str, kind: &str, about: &str) {
    let (name, about) = (escaped(name), escaped(about));
    push(page, format_args!("<tr><th>{name}<td>{kind}<td>{about}"));
}

/// What a schema allows, in a few words of HTML.
fn kind(schema: &Value) -> String {
    if let Some(target) = schema["$ref"].as_str() {
        let name = escaped(target.rsplit('/').next().unwrap_or(target));
        return format!("<a href='#{name}'>{name}</a>");
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        return choices.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    if schema["enum"].is_array() {
        let values = list(&schema["enum"]).map(|value| escaped(&value.to_string()));
        return values.collect::<Vec<_>>().join(", ");
    }
    if schema["items"].is_object() {
        return format!("list of {}{}", kind(&schema["items"]), or_null(schema));
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().map(text).collect::<Vec<_>>().join(" or "),
        one => text(one).to_owned(),
    };
    let format = schema["format"].as_str().map(|format| format!(" ({format})"));
    escaped(&(types + &format.unwrap_or_default()))
}

fn or_null(schema: &Value) -> &'static str {
    if list(&schema["type"]).any(|kind| kind == "null") { " or null" } else { "" }
}

fn push(page: &mut String, html: std::fmt::Arguments<'_>) {
    page.write_fmt(html).expect("writing to a string");
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&#39;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_and_every_type_is_on_the_page() {
        let api = openapi::as_value();
        let mut operations = 0;
        for (path, methods) in members(&api["paths"]) {
            for (method, operation) in members(methods) {
                operations += 1;
                let heading = format!("<b>{}</b> <code>{path}</code>", method.to_uppercase());
                assert!(PAGE.contains(&heading), "{heading}");
                assert!(!text(&operation["summary"]).is_empty(), "{method} {path} has no summary");
            }
        }
        assert!(operations > 20, "{operations}");
        for link in PAGE.split("href='#").skip(1).filter_map(|rest| rest.split('\'').next()) {
            assert!(PAGE.contains(&format!("id='{link}'")), "{link} leads nowhere");
        }
    }

    #[test]
    fn what_a_description_says_is_shown_as_text() {
        let mut api = openapi::as_value();
        api["info"]["description"] = "<script>'\"&".into();
        assert!(page(&api).contains("&lt;script&gt;&#39;&quot;&amp;"));
    }
}
