//! The HTTP API over a real store: who sees what, events in, recordings played, the envelope.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use finalizer::api::{
    ApiState, Authenticator, LivekitKey, NewApiKey, Origins, Probes, Webhooks, new_api_key, paths,
    router,
};
use finalizer::clock::Clock;
use finalizer::courier::{Client, ClientOptions, Guard};
use finalizer::finalize::PriceBook;
use finalizer::health::Health;
use finalizer::intake::{Intake, IntakeParts, NoDesk, Replayer};
use finalizer::recordings::{Places, PlacesSettings};
use http::{Method, Request, StatusCode, header};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::harness::service::keyring;
use crate::harness::{TestStore, after, ended, fresh_id, noon, recording, sqlite, started};

const JWT_SECRET: &str = "a secret that only the issuer and we know";
pub(crate) const LIVEKIT_KEY: &str = "APIdevkey";
pub(crate) const LIVEKIT_SECRET: &str = "a secret that only the LiveKit server and we know";
pub(crate) const PUBLIC_URL: &str = "https://voice.example.com";

pub(crate) struct HandClock(Mutex<DateTime<Utc>>);

impl HandClock {
    pub(crate) fn forward(&self, by: TimeDelta) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for HandClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }
}

/// The whole API over a database and a folder of recordings.
pub(crate) struct Api {
    pub(crate) router: Router,
    /// Of every route.
    pub(crate) paths: Vec<String>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) test: TestStore,
    pub(crate) clock: Arc<HandClock>,
    pub(crate) health: Arc<Health>,
    pub(crate) recordings: tempfile::TempDir,
    /// The user 7's, who owns all sessions of these tests.
    pub(crate) owner_key: String,
    pub(crate) staff_key: String,
    pub(crate) intake: Intake,
    _intake: DropGuard,
}

/// An answer, read whole.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// An error in the envelope.
    #[track_caller]
    pub(crate) fn assert_error(&self, status: StatusCode) {
        let body = self.json();
        assert_eq!(self.status, status, "{body}");
        let keys: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys.len(), 4, "{keys:?}");
        assert_eq!(body["success"], json!(false));
        assert!(!body["message"].as_str().unwrap().is_empty());
        assert!(body.get("errors").is_some());
    }
}

/// Endpoints may be on this machine, behind https.
fn webhooks() -> Arc<Webhooks> {
    let guard = Guard { allow: vec!["127.0.0.0/8".parse().unwrap()], allow_http: false };
    let guard = Arc::new(guard);
    let client = Client::new(Arc::clone(&guard), ClientOptions::default());
    Arc::new(Webhooks::new(guard, client))
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::over(sqlite().await).await
    }

    pub(crate) async fn over(test: TestStore) -> Self {
        let recordings = tempfile::tempdir().unwrap();
        let places = places(&recordings);
        let clock = Arc::new(HandClock(Mutex::new(noon())));
        let stop = CancellationToken::new();
        let parts = IntakeParts {
            metrics: Arc::default(),
            store: test.store.clone(),
            clock: clock.clone(),
            prices: Arc::new(PriceBook::builtin()),
            public_url: PUBLIC_URL.to_owned(),
            recordings_place: places.default_url(),
            desk: Arc::new(NoDesk),
            max_event_bytes: 4 << 20,
        };
        let replayer = Replayer::new(parts.clone(), stop.clone());
        tokio::spawn(replayer.clone().run(true));
        let (intake, taking) = Intake::new(parts, stop.clone());
        tokio::spawn(taking);
        let health = Arc::new(Health::default());
        let authenticator = Arc::new(Authenticator::new(Some(JWT_SECRET), None).unwrap());
        let state = ApiState {
            store: test.store.clone(),
            clock: clock.clone(),
            authenticator: Arc::clone(&authenticator),
            public_url: PUBLIC_URL.into(),
            places: Arc::new(places),
            keyring: keyring(),
            webhooks: webhooks(),
            intake: Some(intake.clone()),
            replayer: Some(replayer),
            livekit: Some(Arc::new(LivekitKey::new(LIVEKIT_KEY, LIVEKIT_SECRET))),
            probes: Probes::new(
                test.store.clone(),
                clock.clone(),
                health.clone(),
                Some(intake.clone()),
                Arc::default(),
            ),
            origins: Origins::default(),
        };
        let paths = paths();
        let router = router(state);
        let owner_key = add_key(&test, 1, 7, false).await;
        let staff_key = add_key(&test, 2, 1, true).await;
        let guard = stop.drop_guard();
        Self {
            router,
            paths,
            authenticator,
            test,
            clock,
            health,
            recordings,
            owner_key,
            staff_key,
            intake,
            _intake: guard,
        }
    }

    pub(crate) async fn call(
        &self,
        request: http::request::Builder,
        body: impl Into<Body>,
    ) -> Answer {
        let request = request.body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, uri: &str, key: &str) -> Answer {
        self.call(Request::builder().uri(uri).header("x-api-key", key), Body::empty()).await
    }

    async fn session(&self, session_id: Uuid) -> Value {
        let answer = self.get(&session_path(session_id), &self.owner_key).await;
        assert_eq!(answer.status, StatusCode::OK);
        answer.json()["data"].clone()
    }

    async fn post_events(&self, content_type: &str, key: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder()
            .method(Method::POST)
            .uri("/api/events/")
            .header(header::CONTENT_TYPE, content_type)
            .header("x-api-key", key);
        self.call(request, body).await
    }

    /// Gives events as staff; what became of them.
    pub(crate) async fn take(&self, events: &[Value]) -> Value {
        let lines: Vec<String> = events.iter().map(Value::to_string).collect();
        let body = lines.join("\n");
        let answer = self.post_events("application/x-ndjson", &self.staff_key, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
        answer.json()["data"].clone()
    }

    pub(crate) async fn finalized_session(&self) -> Uuid {
        let session_id = fresh_id();
        let answers = self.take(&[ended(session_id)]).await;
        assert_eq!(answers[0]["status"], json!("finalized"), "{answers}");
        session_id
    }

    /// A session whose recording of ten bytes can be played: the path and query of its link.
    async fn link_to_recording(&self) -> String {
        std::fs::write(self.recordings.path().join("call.mp4"), b"0123456789").unwrap();
        let session_id = fresh_id();
        let mut complete = recording(session_id, "EG_1", "EGRESS_COMPLETE");
        let egress = complete["egress"].as_object_mut().unwrap();
        egress.remove("roomComposite");
        let mut ended = ended(session_id);
        ended["recording"] = json!({"expected": true, "egress_id": "EG_1"});
        self.take(&[ended, complete]).await;
        let data = self.session(session_id).await;
        assert_eq!(data["recording_status"], json!("READY"), "{data}");
        let link = data["recording_presigned_url"].as_str().unwrap();
        link.strip_prefix(PUBLIC_URL).unwrap().to_owned()
    }

    async fn play(&self, method: Method, link: &str, range: Option<&str>) -> Answer {
        let mut request = Request::builder().method(method).uri(link);
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        self.call(request, Body::empty()).await
    }
}

fn places(folder: &tempfile::TempDir) -> Places {
    let folder = folder.path().canonicalize().unwrap().to_str().unwrap().to_owned();
    Places::new(&PlacesSettings {
        places: &[folder],
        public_url: PUBLIC_URL,
        link_key: [7; 32],
        link_lifetime: Duration::from_mins(15),
    })
    .unwrap()
}

pub(crate) async fn add_key(test: &TestStore, byte: u8, user: i64, is_staff: bool) -> String {
    add_any_key(test, byte, user, is_staff, true).await
}

pub(crate) async fn add_any_key(
    test: &TestStore,
    byte: u8,
    user: i64,
    is_staff: bool,
    is_active: bool,
) -> String {
    let name = "test".to_owned();
    let new = NewApiKey { key_id: fresh_id(), name, user, is_staff, created_at: noon() };
    let (key_text, mut key) = new_api_key([byte; 32], new);
    key.is_active = is_active;
    test.store.add_api_key(&key).await.unwrap();
    key_text
}

pub(crate) fn token(user: i64) -> String {
    let claims = json!({"exp": after(60).timestamp(), "user_id": user});
    let key = EncodingKey::from_secret(JWT_SECRET.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
}

fn session_path(session_id: impl std::fmt::Display) -> String {
    format!("/api/billing/sessions/{session_id}/")
}

// ---- who sees what ----

#[tokio::test]
async fn every_caller_sees_exactly_what_is_theirs() {
    let api = Api::start().await;
    let session_id = api.finalized_session().await;
    let unknown = format!("sk_{}", "9".repeat(64));
    let inactive = add_any_key(&api.test, 3, 7, true, false).await;
    let other = add_key(&api.test, 4, 8, false).await;
    let paths = [session_path(session_id), session_path(fresh_id()), session_path("sess_a1b2c3")];
    let callers = [
        ("no key", None, [401, 401, 401]),
        ("no key at all", Some("let me in"), [401, 401, 401]),
        ("an unknown key", Some(unknown.as_str()), [401, 401, 401]),
        ("an inactive key", Some(&inactive), [401, 401, 401]),
        ("another owner", Some(&other), [404, 404, 400]),
        ("the owner", Some(&api.owner_key), [200, 404, 400]),
        ("staff", Some(&api.staff_key), [200, 404, 400]),
    ];
    for (caller, key, expected) in callers {
        for (path, expected) in paths.iter().zip(expected) {
            let mut request = Request::builder().uri(path);
            if let Some(key) = key {
                request = request.header("x-api-key", key);
            }
            let answer = api.call(request, Body::empty()).await;
            assert_eq!(answer.status, expected, "{caller} at {path}");
            match expected {
                200 => assert_eq!(answer.json()["data"]["session_id"], json!(session_id)),
                _ => answer.assert_error(answer.status),
            }
            assert_eq!(answer.headers.contains_key(header::WWW_AUTHENTICATE), expected == 401);
        }
    }
}

#[tokio::test]
async fn a_foreign_session_and_a_missing_one_look_the_same() {
    let api = Api::start().await;
    let session_id = api.finalized_session().await;
    let other = add_key(&api.test, 4, 8, false).await;
    let foreign = api.get(&session_path(session_id), &other).await;
    let missing = api.get(&session_path(fresh_id()), &other).await;
    assert_eq!(foreign.status, missing.status);
    assert_eq!(foreign.body, missing.body);
    assert_eq!(foreign.headers, missing.headers);
}

#[tokio::test]
async fn only_the_form_of_36_characters_is_a_session_id() {
    let api = Api::start().await;
    let session_id = api.finalized_session().await;
    let upper = session_id.to_string().to_uppercase();
    assert_eq!(api.get(&session_path(upper), &api.owner_key).await.status, StatusCode::OK);
    let forms = [
        session_id.simple().to_string(),
        session_id.urn().to_string(),
        format!("%7B{session_id}%7D"),
        format!("{session_id}0"),
        "%FF".to_owned(),
        "x".repeat(36),
    ];
    for form in forms {
        let answer = api.get(&session_path(&form), &api.owner_key).await;
        answer.assert_error(StatusCode::BAD_REQUEST);
        assert_eq!(answer.json()["errors"][0]["field"], json!("session_id"), "{form}");
    }
}

#[tokio::test]
async fn a_token_opens_its_owners_sessions_and_a_key_wins_over_it() {
    let api = Api::start().await;
    let path = session_path(api.finalized_session().await);
    let other = add_key(&api.test, 4, 8, false).await;
    let call = async |user, key: Option<&str>| {
        let bearer = format!("Bearer {}", token(user));
        let mut request = Request::builder().uri(&path).header(header::AUTHORIZATION, bearer);
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        api.call(request, Body::empty()).await.status
    };
    assert_eq!(call(7, None).await, StatusCode::OK);
    assert_eq!(call(8, None).await, StatusCode::NOT_FOUND);
    assert_eq!(call(7, Some(&other)).await, StatusCode::NOT_FOUND);
    assert_eq!(call(8, Some(&api.owner_key)).await, StatusCode::OK);
    assert_eq!(call(7, Some("sk_wrong")).await, StatusCode::UNAUTHORIZED);
    api.clock.forward(TimeDelta::seconds(90));
    assert_eq!(call(7, None).await, StatusCode::UNAUTHORIZED);
}

// ---- sessions ----

#[tokio::test]
async fn a_session_reads_as_the_customers_page_says() {
    let api = Api::start().await;
    let session_id = api.finalized_session().await;
    let answer = api.get(&session_path(session_id), &api.owner_key).await;
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
    let body = answer.json();
    assert_eq!((&body["success"], &body["errors"]), (&json!(true), &Value::Null));
    let data = &body["data"];
    assert_eq!(data["session_duration_seconds"], json!(180.0));
    assert_eq!(data["transcript"][1]["text"], json!("I want to book a demo."));
    assert_eq!(data["recording_presigned_url"], Value::Null);
    let without_slash = session_path(session_id);
    let without_slash = without_slash.trim_end_matches('/');
    assert_eq!(api.get(without_slash, &api.owner_key).await.body, answer.body);
}

#[tokio::test]
async fn a_session_in_progress_is_there_but_not_finalized() {
    let api = Api::start().await;
    let session_id = fresh_id();
    let taken = api.take(&[started(session_id)]).await;
    assert_eq!(taken[0]["status"], json!("accepted"));
    let data = api.session(session_id).await;
    assert_eq!((&data["finalized_at"], &data["revision"]), (&Value::Null, &json!(0)));
}

// ---- events ----

#[tokio::test]
async fn only_staff_may_bring_events() {
    let api = Api::start().await;
    let event = ended(fresh_id()).to_string();
    let post = async |key: &str| api.post_events("application/json", key, event.clone()).await;
    post("").await.assert_error(StatusCode::UNAUTHORIZED);
    post(&api.owner_key).await.assert_error(StatusCode::FORBIDDEN);
    let answer = post(&api.staff_key).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["data"][0]["status"], json!("finalized"));
}

#[tokio::test]
async fn every_event_gets_its_answer_in_the_order_of_the_events() {
    let api = Api::start().await;
    let session_id = fresh_id();
    let event = ended(session_id);
    let mut conflicting = event.clone();
    conflicting["ended_at"] = json!(after(200));
    conflicting["event_id"] = json!("another");
    let body = format!("{event}\n\nnonsense\n{event}\r\n{conflicting}");
    let answer = api.post_events("application/x-ndjson", &api.staff_key, body).await;
    assert_eq!(answer.status, StatusCode::OK);
    let body = answer.json();
    assert_eq!(body["success"], json!(true));
    let told: Vec<_> = body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["index"].clone(), item["status"].clone(), item["code"].clone()))
        .collect();
    assert_eq!(
        told,
        [
            (json!(0), json!("finalized"), Value::Null),
            (json!(1), json!("failed"), json!("malformed_json")),
            (json!(2), json!("duplicate"), Value::Null),
            (json!(3), json!("failed"), json!("conflicting_event")),
        ]
    );
    let failed = &body["data"][3];
    assert_eq!(failed["session_id"], json!(session_id));
    assert_eq!(failed["event_id"], json!("another"));
    let failure_id = failed["failure_id"].as_str().unwrap().parse().unwrap();
    let (failure, _) = api.test.store.failure(failure_id).await.unwrap().unwrap();
    assert_eq!(failure.source, "http");
}

#[tokio::test]
async fn a_document_is_one_event_and_ndjson_may_have_none() {
    let api = Api::start().await;
    let two = format!("{}\n{}", ended(fresh_id()), ended(fresh_id()));
    let answer = api.post_events("application/json", &api.staff_key, two.clone()).await;
    let data = &answer.json()["data"];
    assert_eq!(data.as_array().unwrap().len(), 1, "two documents are no JSON: {data}");
    assert_eq!(data[0]["code"], json!("malformed_json"));
    let answer = api.post_events("application/x-ndjson; charset=utf-8", &api.staff_key, two).await;
    assert_eq!(answer.json()["data"].as_array().unwrap().len(), 2);
    let answer = api.post_events("application/x-ndjson", &api.staff_key, "\n\n").await;
    assert_eq!((answer.status, &answer.json()["data"]), (StatusCode::OK, &json!([])));
}

#[tokio::test]
async fn an_answer_says_what_is_wrong_and_where() {
    let api = Api::start().await;
    let session_id = fresh_id();
    let mut event = ended(session_id);
    event["event_id"] = json!("call-17");
    event["character_owner"] = json!("seven");
    let answer = &api.take(&[event]).await[0];
    let mut names: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["code", "event_id", "failure_id", "index", "message", "pointer", "session_id", "status"]
    );
    assert_eq!(answer["event_id"], json!("call-17"));
    assert_eq!(answer["session_id"], json!(session_id));
    assert_eq!(answer["pointer"], json!("/character_owner"));
    assert!(answer["message"].as_str().unwrap().starts_with("Expected an integer"), "{answer}");
}

#[tokio::test]
async fn a_body_beyond_32_mebibytes_is_refused() {
    let api = Api::start().await;
    let body = vec![b' '; (32 << 20) + 1];
    let answer = api.post_events("application/json", &api.staff_key, body).await;
    answer.assert_error(StatusCode::PAYLOAD_TOO_LARGE);
}

// ---- recordings ----

#[tokio::test]
async fn a_ready_recording_plays_whole_and_in_parts() {
    let api = Api::start().await;
    let link = api.link_to_recording().await;
    let whole = api.play(Method::GET, &link, None).await;
    assert_eq!((whole.status, whole.body.as_ref()), (StatusCode::OK, b"0123456789".as_slice()));
    assert_eq!(whole.header("content-type"), "video/mp4");
    assert_eq!(whole.header("accept-ranges"), "bytes");
    let head = api.play(Method::HEAD, &link, None).await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    assert_eq!(head.header("content-length"), "10");
    for (range, bytes, content_range) in [
        ("bytes=2-4", b"234".as_slice(), "bytes 2-4/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
    ] {
        let part = api.play(Method::GET, &link, Some(range)).await;
        assert_eq!((part.status, part.body.as_ref()), (StatusCode::PARTIAL_CONTENT, bytes));
        assert_eq!(part.header("content-range"), content_range);
        assert_eq!(part.header("content-type"), "video/mp4");
    }
    let beyond = api.play(Method::GET, &link, Some("bytes=10-")).await;
    beyond.assert_error(StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(beyond.header("content-range"), "bytes */10");
}

#[tokio::test]
async fn a_link_that_was_changed_or_has_expired_plays_nothing() {
    let api = Api::start().await;
    let link = api.link_to_recording().await;
    std::fs::write(api.recordings.path().join("other.mp4"), b"other").unwrap();
    let (path, query) = link.split_once('?').unwrap();
    let forgeries = [
        path.to_owned(),
        format!("{path}?signature=&expires="),
        format!("/recordings/other.mp4?{query}"),
        format!("/recordings/..%2Fcall.mp4?{query}"),
        format!("/recordings/%FF?{query}"),
        format!("/recordings/x/../call.mp4?{query}"),
        format!("{path}?{}", query.replace("expires=", "expires=1")),
        format!("{path}?{query}&expires=1"),
    ];
    for forgery in forgeries {
        let answer = api.play(Method::GET, &forgery, None).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{forgery}");
        answer.assert_error(StatusCode::FORBIDDEN);
    }
    api.clock.forward(TimeDelta::minutes(15));
    api.play(Method::GET, &link, None).await.assert_error(StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_recording_that_was_removed_is_no_longer_there() {
    let api = Api::start().await;
    let link = api.link_to_recording().await;
    std::fs::remove_file(api.recordings.path().join("call.mp4")).unwrap();
    api.play(Method::GET, &link, None).await.assert_error(StatusCode::NOT_FOUND);
}

// ---- everything else ----

#[tokio::test]
async fn errors_that_no_route_makes_come_in_the_envelope_too() {
    let api = Api::start().await;
    for path in ["/api/", "/api/billing/sessions/", "/nothing?x=1"] {
        api.get(path, "").await.assert_error(StatusCode::NOT_FOUND);
    }
    let request = Request::builder().method(Method::PUT).uri(session_path(fresh_id()));
    let answer = api.call(request, Body::empty()).await;
    answer.assert_error(StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.header("allow"), "GET,HEAD");
}

#[tokio::test]
async fn probes_tell_whether_the_process_lives_and_can_work() {
    let api = Api::start().await;
    assert_eq!(api.get("/livez", "").await.status, StatusCode::OK);
    let ready = api.get("/readyz", "").await;
    assert_eq!(
        (ready.status, &ready.json()["data"]),
        (StatusCode::OK, &json!({"intake": null, "store": null}))
    );
    api.health.ill("broker", "The broker is not answering.");
    let answer = api.get("/readyz", "").await;
    answer.assert_error(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        answer.json()["data"],
        json!({"intake": null, "store": null, "broker": "The broker is not answering."})
    );
    api.health.well("broker");
    assert_eq!(api.get("/readyz", "").await.status, StatusCode::OK);
}
