//! Signing in to the console: what its cookie opens, when it ends, and what it cannot be made to do.

use axum::body::Body;
use chrono::TimeDelta;
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};

use crate::api::{Answer, Api, PUBLIC_URL};
use crate::harness::{ended, fresh_id};

const SESSION: &str = "/api/console/session/";

/// Signs in; the cookie as a browser sends it back, and the token.
pub(crate) async fn sign_in(api: &Api, key: &str) -> (String, String) {
    let request = Request::builder().method(Method::POST).uri(SESSION).header("x-api-key", key);
    let answer = api.call(request, Body::empty()).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
    let token = answer.json()["data"]["csrf_token"].as_str().unwrap().to_owned();
    (cookie, token)
}

impl Api {
    async fn get_with_cookie(&self, uri: &str, cookie: &str) -> Answer {
        self.call(Request::builder().uri(uri).header(header::COOKIE, cookie), Body::empty()).await
    }
}

#[tokio::test]
async fn a_browser_that_signed_in_reads_what_its_key_reads() {
    let api = Api::start().await;
    let session_id = api.finalized_session().await;
    let (cookie, token) = sign_in(&api, &api.owner_key).await;
    let path = format!("/api/billing/sessions/{session_id}/");
    let by_cookie = api.get_with_cookie(&path, &format!("theme=dark; {cookie}; a=b")).await;
    assert_eq!(by_cookie.json(), api.get(&path, &api.owner_key).await.json());
    let who = api.get_with_cookie(SESSION, &cookie).await.json();
    assert_eq!(who["data"], json!({"user": 7, "is_staff": false, "csrf_token": token}));
    let who = api.get(SESSION, &api.staff_key).await.json();
    assert_eq!(who["data"], json!({"user": 1, "is_staff": true, "csrf_token": null}));
}

#[tokio::test]
async fn the_cookie_is_kept_from_scripts_and_from_other_sites_and_from_plain_http() {
    let api = Api::start().await;
    let key = &api.owner_key;
    let request = Request::builder().method(Method::POST).uri(SESSION).header("x-api-key", key);
    let answer = api.call(request, Body::empty()).await;
    let set = answer.header("set-cookie");
    let (pair, terms) = set.split_once("; ").unwrap();
    assert_eq!(terms, "Path=/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure");
    assert!(pair.starts_with("__Host-finalizer="), "{set}");
    assert!(!set.contains(&key[3..]), "the key itself is in it");
}

#[tokio::test]
async fn a_cookie_ends_after_twelve_hours() {
    let api = Api::start().await;
    let (cookie, _) = sign_in(&api, &api.owner_key).await;
    api.clock.forward(TimeDelta::hours(12) - TimeDelta::seconds(1));
    assert_eq!(api.get_with_cookie(SESSION, &cookie).await.status, StatusCode::OK);
    api.clock.forward(TimeDelta::seconds(1));
    api.get_with_cookie(SESSION, &cookie).await.assert_error(StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn whoever_stops_a_key_ends_what_signed_in_with_it() {
    let api = Api::start().await;
    let made = api
        .call(
            Request::builder()
                .method(Method::POST)
                .uri("/api/auth/api-keys/")
                .header("x-api-key", &api.owner_key),
            Body::from(json!({"name": "console"}).to_string()),
        )
        .await
        .json();
    let (cookie, _) = sign_in(&api, made["data"]["key"].as_str().unwrap()).await;
    let path = format!("/api/auth/api-keys/{}/", made["data"]["id"].as_str().unwrap());
    for (is_active, status) in [
        (false, StatusCode::UNAUTHORIZED),
        (true, StatusCode::OK),
        (false, StatusCode::UNAUTHORIZED),
    ] {
        let change = Request::builder().method(Method::PATCH).uri(&path);
        let body = json!({"is_active": is_active}).to_string();
        let changed = api.call(change.header("x-api-key", &api.owner_key), body).await;
        assert_eq!(changed.status, StatusCode::OK);
        assert_eq!(api.get_with_cookie(SESSION, &cookie).await.status, status);
    }
}

#[tokio::test]
async fn a_cookie_that_was_changed_anywhere_opens_nothing() {
    let api = Api::start().await;
    let (cookie, _) = sign_in(&api, &api.staff_key).await;
    let (name, value) = cookie.split_once('=').unwrap();
    for at in 0..value.len() {
        let other = if value.as_bytes()[at] == b'A' { "B" } else { "A" };
        let changed = format!("{name}={}{other}{}", &value[..at], &value[at + 1..]);
        // The last character has bits that mean nothing.
        if at + 1 < value.len() {
            api.get_with_cookie(SESSION, &changed).await.assert_error(StatusCode::UNAUTHORIZED);
        }
    }
    for value in ["", "%", "sk_", &"A".repeat(4000)] {
        let answer = api.get_with_cookie(SESSION, &format!("{name}={value}")).await;
        answer.assert_error(StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn a_key_counts_before_a_cookie_and_needs_no_token() {
    let api = Api::start().await;
    let (cookie, _) = sign_in(&api, &api.owner_key).await;
    let request = Request::builder()
        .method(Method::POST)
        .uri("/api/auth/api-keys/")
        .header(header::COOKIE, &cookie)
        .header("x-api-key", &api.staff_key);
    let answer = api.call(request, Body::from(json!({"user": 8}).to_string())).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{:?}", answer.body);
    let wrong = Request::builder().uri(SESSION).header(header::COOKIE, &cookie);
    let answer = api.call(wrong.header("x-api-key", "sk_wrong"), Body::empty()).await;
    answer.assert_error(StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn signing_out_makes_the_browser_forget() {
    let api = Api::start().await;
    let (cookie, token) = sign_in(&api, &api.owner_key).await;
    let request = Request::builder()
        .method(Method::DELETE)
        .uri(SESSION)
        .header(header::COOKIE, cookie)
        .header(header::ORIGIN, PUBLIC_URL)
        .header("x-csrf-token", token);
    let answer = api.call(request, Body::empty()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.header("set-cookie").starts_with("__Host-finalizer=; Path=/; Max-Age=0; "));
}

#[tokio::test]
async fn everything_of_the_console_comes_with_a_policy_that_lets_nothing_else_in() {
    let api = Api::start().await;
    for path in ["/", "/console/app.js", "/console/console.css"] {
        let answer = api.call(Request::builder().uri(path), Body::empty()).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        let policy = answer.header("content-security-policy");
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    for path in ["/console/nothing.js", "/console/index.html", "/console/..%2Fmod.rs", "/console/"]
    {
        let answer = api.call(Request::builder().uri(path), Body::empty()).await;
        answer.assert_error(StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn a_brief_page_has_neither_totals_nor_texts() {
    let api = Api::start().await;
    for _ in 0..3 {
        api.take(&[ended(fresh_id())]).await;
    }
    let pages = "/api/billing/usage/?brief=true&page_size=2";
    let first = api.get(pages, &api.owner_key).await.json()["data"].take();
    assert_eq!(first["total_sessions"], Value::Null);
    let (rows, next) = (&first["sessions"]["data"], &first["sessions"]["next"]);
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert_eq!((&rows[0]["turn_count"], &rows[0]["transcript_text"]), (&json!(2), &Value::Null));
    assert!(next.as_str().unwrap().ends_with("brief=true&page_size=2&page=2"), "{next}");
    let last = api.get(&format!("{pages}&page=2"), &api.owner_key).await.json()["data"].take();
    assert_eq!(last["sessions"]["data"].as_array().unwrap().len(), 1);
    assert_eq!(last["sessions"]["next"], Value::Null);
    assert!(last["sessions"]["previous"].as_str().unwrap().ends_with("page=1"));
    for query in ["brief=yes", "brief=true&finalized_after="] {
        let answer = api.get(&format!("/api/billing/usage/?{query}"), &api.owner_key).await;
        answer.assert_error(StatusCode::BAD_REQUEST);
    }
}
