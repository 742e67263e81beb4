//! Who may call what: every route of the router, with every method that it takes, for every kind of
//! caller. A route that is not in the table below fails here.

use axum::body::Body;
use finalizer::api::{NewApiKey, new_api_key};
use finalizer::store::{Redelivery, RedeliveryRange, Replay, Statuses};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::{Answer, Api, PUBLIC_URL, add_any_key, add_key};
use crate::api_console::sign_in;
use crate::api_failures;
use crate::harness::{after, ended, endpoint, fresh_id, noon, started};

/// What each kind of caller gets, in the order of [`Callers::all`]: the last two are the owner and
/// staff who signed in to the console.
type Expected = [u16; 8];

const OPEN: Expected = [200; 8];
/// Nobody without a signature.
const SIGNED: Expected = [403; 8];
/// Nobody without a token that LiveKit's key signed.
const LIVEKIT: Expected = [401; 8];
/// Something that belongs to the owner.
const OWNED: Expected = [401, 401, 401, 404, 200, 200, 200, 200];
/// Everybody sees their own, staff all.
const LISTED: Expected = [401, 401, 401, 200, 200, 200, 200, 200];
/// Everybody makes their own.
const MADE: Expected = [401, 401, 401, 201, 201, 201, 201, 201];
/// Made for something that belongs to the owner.
const MADE_FOR: Expected = [401, 401, 401, 404, 201, 201, 201, 201];
const STAFF: Expected = [401, 401, 401, 403, 403, 200, 403, 200];
/// Made by staff alone.
const MADE_BY_STAFF: Expected = [401, 401, 401, 403, 403, 201, 403, 201];
/// Everybody with a key.
const KEYED: Expected = [401, 401, 401, 200, 200, 200, 401, 401];

/// The only route that answers with bytes: those of an event that could not be finalized.
const RAW: &str = "/api/failures/{id}/raw";

/// Without the slash at the end.
const TABLE: &[(&str, &str, Expected)] = &[
    ("GET", "/api/billing/sessions/{session_id}", OWNED),
    ("GET", "/api/billing/usage", LISTED),
    ("GET", "/api/auth/api-keys", LISTED),
    ("POST", "/api/auth/api-keys", MADE),
    ("PATCH", "/api/auth/api-keys/{id}", OWNED),
    ("DELETE", "/api/auth/api-keys/{id}", OWNED),
    ("GET", "/api/webhooks/endpoints", LISTED),
    ("POST", "/api/webhooks/endpoints", MADE),
    ("GET", "/api/webhooks/endpoints/{id}", OWNED),
    ("PATCH", "/api/webhooks/endpoints/{id}", OWNED),
    ("DELETE", "/api/webhooks/endpoints/{id}", OWNED),
    ("POST", "/api/webhooks/endpoints/{id}/enable", OWNED),
    ("POST", "/api/webhooks/endpoints/{id}/disable", OWNED),
    ("POST", "/api/webhooks/endpoints/{id}/ping", OWNED),
    ("POST", "/api/webhooks/endpoints/{id}/rotate-secret", OWNED),
    ("GET", "/api/webhooks/deliveries", LISTED),
    ("GET", "/api/webhooks/deliveries/{id}", OWNED),
    ("POST", "/api/webhooks/deliveries/{id}/redeliver", OWNED),
    ("GET", "/api/webhooks/redeliveries", LISTED),
    ("POST", "/api/webhooks/redeliveries", MADE_FOR),
    ("GET", "/api/webhooks/redeliveries/{id}", OWNED),
    ("DELETE", "/api/webhooks/redeliveries/{id}", OWNED),
    ("GET", "/api/failures", STAFF),
    ("GET", "/api/failures/replays", STAFF),
    ("POST", "/api/failures/replays", MADE_BY_STAFF),
    ("GET", "/api/failures/replays/{id}", STAFF),
    ("DELETE", "/api/failures/replays/{id}", STAFF),
    ("GET", "/api/failures/{id}", STAFF),
    ("GET", RAW, STAFF),
    ("POST", "/api/failures/{id}/replay", STAFF),
    ("POST", "/api/failures/{id}/discard", STAFF),
    ("POST", "/api/events", STAFF),
    ("POST", "/api/livekit/webhook", LIVEKIT),
    ("GET", "/recordings/{*path}", SIGNED),
    ("GET", "/api/overview", LISTED),
    ("GET", "/api/console/session", LISTED),
    ("POST", "/api/console/session", KEYED),
    ("DELETE", "/api/console/session", LISTED),
    ("GET", "/", OPEN),
    ("GET", "/console/{file}", OPEN),
    ("GET", "/livez", OPEN),
    ("GET", "/readyz", OPEN),
    ("GET", "/metrics", OPEN),
    ("GET", "/openapi.json", OPEN),
    ("GET", "/docs", OPEN),
];

/// What is for people, or tells of the envelope, is in none.
const PAGES: [&str; 5] = ["/openapi.json", "/docs", "/metrics", "/", "/console/{file}"];

/// These count things and name none.
const NAMELESS: [&str; 2] = ["/api/overview", "/api/console/session"];

/// The path as the table has it.
fn row_path(path: &str) -> &str {
    if path == "/" { path } else { path.trim_end_matches('/') }
}

/// What a caller gets who may call the route by this method.
fn expected(method: &str, path: &str) -> Expected {
    // Whoever may read may also ask for the headers alone.
    let method = if method == "HEAD" { "GET" } else { method };
    let path = row_path(path);
    let row = TABLE.iter().find(|row| (row.0, row.1) == (method, path));
    row.unwrap_or_else(|| panic!("say in the table who may call {method} {path}")).2
}

/// What a caller sends along.
enum Credential {
    Nothing,
    Key(String),
    /// A cookie, and what comes with it from the console alone.
    Cookie {
        cookie: String,
        csrf_token: String,
    },
}

impl Credential {
    async fn signed_in(api: &Api, key: &str) -> Self {
        let (cookie, csrf_token) = sign_in(api, key).await;
        Self::Cookie { cookie, csrf_token }
    }

    fn sent_with(&self, request: http::request::Builder) -> http::request::Builder {
        match self {
            Self::Nothing => request,
            Self::Key(key) => request.header("x-api-key", key),
            Self::Cookie { cookie, csrf_token } => request
                .header("cookie", cookie)
                .header("origin", PUBLIC_URL)
                .header("x-csrf-token", csrf_token),
        }
    }
}

struct Callers {
    all: [Credential; 8],
}

impl Callers {
    async fn of(api: &Api) -> Self {
        let wrong = format!("sk_{}", "9".repeat(64));
        let inactive = add_any_key(&api.test, 3, 7, true, false).await;
        let other = add_key(&api.test, 4, 8, false).await;
        let by_cookie = [
            Credential::signed_in(api, &api.owner_key).await,
            Credential::signed_in(api, &api.staff_key).await,
        ];
        let [wrong, inactive, other, owner, staff] =
            [wrong, inactive, other, api.owner_key.clone(), api.staff_key.clone()]
                .map(Credential::Key);
        let [owner_by_cookie, staff_by_cookie] = by_cookie;
        let nobody = Credential::Nothing;
        Self {
            all: [nobody, wrong, inactive, other, owner, staff, owner_by_cookie, staff_by_cookie],
        }
    }
}

/// Something of each kind that belongs to the owner 7.
#[derive(Clone, Copy)]
struct Belongings {
    session: Uuid,
    endpoint: Uuid,
    delivery: Uuid,
    redelivery: Uuid,
    key: Uuid,
    failure: Uuid,
    replay: Uuid,
}

impl Belongings {
    /// Nothing is there.
    fn missing() -> Self {
        let [session, endpoint, delivery, redelivery, key, failure, replay] =
            std::array::from_fn(|_| fresh_id());
        Self { session, endpoint, delivery, redelivery, key, failure, replay }
    }

    async fn make(api: &Api) -> Self {
        let made = Self::missing();
        let store = &api.test.store;
        let mut own = endpoint();
        // Nobody listens there.
        (own.endpoint_id, own.owner) = (made.endpoint, Some(7));
        "http://127.0.0.1:1/".clone_into(&mut own.url);
        own.sealed_secret = crate::harness::service::keyring()
            .seal(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=");
        store.add_endpoint(&own).await.unwrap();
        api.take(&[ended(made.session)]).await;
        let deliveries = store.deliveries_of(made.session).await.unwrap();
        let to_it = deliveries.iter().find(|owed| owed.endpoint_id == made.endpoint);
        let delivery = to_it.unwrap().delivery_id;
        let range = RedeliveryRange {
            endpoint_id: made.endpoint,
            since: noon(),
            until: after(60),
            statuses: Statuses::ALL,
        };
        // It has ended: one that runs would be in the way of the next.
        let job = Redelivery::new(made.redelivery, range, None, Some(0), noon());
        store.add_redelivery(&job).await.unwrap();
        store.cancel_redelivery(made.redelivery, noon()).await.unwrap();
        let name = "the owner's".to_owned();
        let bytes = *[*made.key.as_bytes(); 2].as_flattened().first_chunk().unwrap();
        let new =
            NewApiKey { key_id: made.key, name, user: 7, is_staff: false, created_at: noon() };
        store.add_api_key(&new_api_key(bytes, new).1).await.unwrap();
        let failed = api.take(&[json!({"type": "nothing", "session_id": made.session})]).await;
        let failure = failed[0]["failure_id"].as_str().unwrap().parse().unwrap();
        let replay = made.replay;
        let job = Replay { replay_id: replay, ..api_failures::job() };
        store.add_replay(&job).await.unwrap();
        Self { delivery, failure, ..made }
    }

    fn uri(&self, path: &str) -> String {
        let kinds = [
            ("/api/auth/api-keys/", self.key),
            ("/api/webhooks/endpoints/", self.endpoint),
            ("/api/webhooks/deliveries/", self.delivery),
            ("/api/webhooks/redeliveries/", self.redelivery),
            ("/api/failures/replays/", self.replay),
            ("/api/failures/", self.failure),
        ];
        let of_kind = kinds.iter().find(|(prefix, _)| path.starts_with(prefix));
        let uri = path
            .replace("{session_id}", &self.session.to_string())
            .replace("{id}", &of_kind.map(|(_, id)| id.to_string()).unwrap_or_default())
            .replace("{file}", "app.js")
            .replace("{*path}", "recordings/call.mp4");
        assert!(!uri.contains('{') && !uri.contains("//"), "say here what belongs into {path}");
        uri
    }

    fn body(&self, method: &str, path: &str) -> Value {
        match (method, path.trim_end_matches('/')) {
            ("POST", "/api/webhooks/endpoints") => json!({"url": "https://example.com/hook"}),
            ("POST", "/api/webhooks/redeliveries") => json!({"endpoint_id": self.endpoint}),
            ("POST", "/api/events") => started(fresh_id()),
            _ => json!({}),
        }
    }

    /// Whether something of it is told.
    fn is_told_in(&self, answer: &Answer) -> bool {
        let body = String::from_utf8_lossy(&answer.body);
        let Self { session, endpoint, delivery, redelivery, key, failure, replay } = self;
        [session, endpoint, delivery, redelivery, key, failure, replay]
            .iter()
            .any(|id| body.contains(&id.to_string()))
    }

    async fn ask(&self, api: &Api, (method, path): (&str, &str), from: &Credential) -> Answer {
        let request = Request::builder().method(method).uri(self.uri(path));
        let body = Body::from(self.body(method, path).to_string());
        api.call(from.sent_with(request), body).await
    }
}

/// The methods that a path takes, as it says itself; what it says to another.
async fn methods(api: &Api, path: &str) -> Vec<String> {
    let uri = Belongings::missing().uri(path);
    let method = Method::from_bytes(b"PURGE").unwrap();
    let answer = api.call(Request::builder().method(method).uri(uri), Body::empty()).await;
    answer.assert_error(StatusCode::METHOD_NOT_ALLOWED);
    answer.header("allow").split(',').map(str::to_owned).collect()
}

#[track_caller]
fn assert_enveloped(answer: &Answer, path: &str, asked: &str) {
    if asked.starts_with("HEAD") {
        return assert!(answer.body.is_empty(), "{asked}");
    }
    if PAGES.contains(&path) {
        return assert!(answer.status.is_success(), "{asked}");
    }
    if !answer.status.is_success() {
        return answer.assert_error(answer.status);
    }
    let body = answer.json();
    let keys: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["data", "errors", "message", "success"], "{asked}");
    assert_eq!((&body["success"], &body["errors"]), (&json!(true), &Value::Null), "{asked}");
    assert!(!body["message"].as_str().unwrap().is_empty(), "{asked}");
}

async fn assert_scoped(api: &Api, callers: &Callers, (method, path): (&str, &str)) {
    let expected = expected(method, path);
    let of_all = Belongings::make(api).await;
    for (caller, (from, status)) in callers.all.iter().zip(expected).enumerate() {
        // What the owner did to theirs, staff do to others, and so do those with a cookie.
        let belongings = if caller > 4 { Belongings::make(api).await } else { of_all };
        assert_only_from_the_console(api, &belongings, (method, path), from, status).await;
        let answer = belongings.ask(api, (method, path), from).await;
        let asked = format!("{method} {path} by caller {caller}");
        assert_eq!(answer.status, status, "{asked}: {:?}", answer.body);
        if path.trim_end_matches('/') != RAW || !answer.status.is_success() {
            assert_enveloped(&answer, path, &asked);
        }
        assert_eq!(answer.headers.contains_key("www-authenticate"), status == 401, "{asked}");
        if caller == 3 {
            assert!(!belongings.is_told_in(&answer), "{asked}: {:?}", answer.body);
            let missing = Belongings::missing();
            let answer_of_missing = missing.ask(api, (method, path), from).await;
            if status == 404 {
                assert_eq!(answer.body, answer_of_missing.body, "{asked}");
                assert_eq!(answer.headers, answer_of_missing.headers, "{asked}");
            }
        }
        let is_told =
            expected == OWNED || expected == LISTED && !NAMELESS.contains(&row_path(path));
        if caller > 3 && method == "GET" && is_told {
            assert!(belongings.is_told_in(&answer), "{asked}: {:?}", answer.body);
        }
    }
}

/// A cookie goes along with whatever any page asks for: alone it must not change a thing.
async fn assert_only_from_the_console(
    api: &Api,
    belongings: &Belongings,
    (method, path): (&str, &str),
    from: &Credential,
    status: u16,
) {
    let Credential::Cookie { cookie, csrf_token } = from else { return };
    let csrf_token = csrf_token.as_str();
    let is_safe = ["GET", "HEAD"].contains(&method);
    if is_safe || status >= 300 {
        return;
    }
    for (origin, token) in
        [(PUBLIC_URL, ""), ("https://evil.example", csrf_token), ("null", csrf_token)]
    {
        let request = Request::builder().method(method).uri(belongings.uri(path));
        let request = request.header("cookie", cookie).header("origin", origin);
        let body = Body::from(belongings.body(method, path).to_string());
        let answer = api.call(request.header("x-csrf-token", token), body).await;
        answer.assert_error(StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn every_route_shows_every_caller_what_is_theirs_and_nothing_else() {
    let paths = Api::start().await.paths;
    let mut called = 0;
    for path in &paths {
        let api = Api::start().await;
        let callers = Callers::of(&api).await;
        for method in methods(&api, path).await {
            assert_scoped(&api, &callers, (&method, path)).await;
            called += usize::from(method != "HEAD" && path == row_path(path));
        }
    }
    assert_eq!(called, TABLE.len(), "the table has rows that no route answers to");
}

#[tokio::test]
async fn what_is_no_route_is_a_404_in_the_envelope_whoever_asks() {
    let api = Api::start().await;
    for path in ["/nothing", "/api/nothing/", "/api/auth/api-keys/a/b/"] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            for key in ["", &api.owner_key, &api.staff_key] {
                let request = Request::builder().method(&method).uri(path).header("x-api-key", key);
                let answer = api.call(request, Body::empty()).await;
                answer.assert_error(StatusCode::NOT_FOUND);
            }
        }
    }
}
