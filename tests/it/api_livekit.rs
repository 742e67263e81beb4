//! LiveKit's own webhooks, signed as its server signs them.

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use finalizer::event::FailureCode;
use finalizer::finalize::RecordingStatus;
use finalizer::store::{Failure, FailureFilter};
use http::{Method, Request, StatusCode, header};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::api::{Answer, Api, LIVEKIT_KEY, LIVEKIT_SECRET};
use crate::harness::{fresh_id, noon};
use crate::recordings::{call_of_samples, sample};

const PATH: &str = "/api/livekit/webhook/";
pub(crate) const CONTENT_TYPE: &str = "application/webhook+json";

/// What LiveKit's SDKs sign at noon for this body.
fn claims(body: &str) -> Value {
    json!({
        "iss": LIVEKIT_KEY,
        "nbf": noon().timestamp(),
        "exp": noon().timestamp() + 300,
        "sha256": STANDARD.encode(Sha256::digest(body)),
    })
}

fn token(claims: &Value, secret: &str, algorithm: Algorithm) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
}

pub(crate) fn signed(body: &str) -> String {
    token(&claims(body), LIVEKIT_SECRET, Algorithm::HS256)
}

pub(crate) async fn post(api: &Api, authorization: &str, content_type: &str, body: &str) -> Answer {
    let request = Request::builder()
        .method(Method::POST)
        .uri(PATH)
        .header(header::CONTENT_TYPE, content_type)
        .header(header::AUTHORIZATION, authorization);
    api.call(request, Body::from(body.to_owned())).await
}

async fn failures(api: &Api) -> Vec<Failure> {
    let filter = FailureFilter { limit: 10, ..FailureFilter::default() };
    api.test.store.failures(&filter).await.unwrap()
}

#[track_caller]
fn assert_taken(answer: &Answer, status: &str) {
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    assert_eq!(answer.json()["data"], json!({ "status": status }));
}

#[tokio::test]
async fn an_egress_that_ends_makes_the_recording_ready_before_the_answer() {
    let api = Api::start().await;
    let session_id = fresh_id();
    api.take(&call_of_samples(session_id)).await;
    for (name, status, expected) in [
        ("egress_started__EGRESS_STARTING", "accepted", RecordingStatus::Pending),
        ("egress_updated__EGRESS_ENDING", "accepted", RecordingStatus::Processing),
        ("egress_ended__EGRESS_COMPLETE", "accepted", RecordingStatus::Ready),
        ("egress_updated__EGRESS_ACTIVE", "duplicate", RecordingStatus::Ready),
        ("egress_ended__EGRESS_COMPLETE", "duplicate", RecordingStatus::Ready),
    ] {
        let body = sample(name, session_id);
        assert_taken(&post(&api, &signed(&body), CONTENT_TYPE, &body).await, status);
        let session = api.test.store.session(session_id).await.unwrap().unwrap();
        assert_eq!(session.recording.status, expected, "after {name}");
    }
}

#[tokio::test]
async fn other_webhooks_are_taken_and_forgotten() {
    let api = Api::start().await;
    let body = sample("participant_left", fresh_id());
    assert_taken(&post(&api, &signed(&body), CONTENT_TYPE, &body).await, "ignored");
    assert_eq!(failures(&api).await, []);
}

#[tokio::test]
async fn a_room_that_is_none_of_ours_is_taken_once_and_is_no_failure() {
    let api = Api::start().await;
    let body = sample("room_finished", fresh_id());
    for status in ["accepted", "duplicate", "duplicate"] {
        assert_taken(&post(&api, &signed(&body), CONTENT_TYPE, &body).await, status);
    }
    assert_eq!(failures(&api).await, []);
}

#[tokio::test]
async fn what_is_not_signed_by_our_livekit_is_refused_and_not_kept() {
    let api = Api::start().await;
    let body = sample("egress_ended__EGRESS_COMPLETE", fresh_id());
    let changed = |key: &str, value: Value| {
        let mut claims = claims(&body);
        claims[key] = value;
        token(&claims, LIVEKIT_SECRET, Algorithm::HS256)
    };
    let without = |key: &str| {
        let mut claims = claims(&body);
        claims.as_object_mut().unwrap().remove(key);
        token(&claims, LIVEKIT_SECRET, Algorithm::HS256)
    };
    let hash = STANDARD.encode(Sha256::digest(&body));
    let at = |seconds: i64| json!(noon().timestamp() + seconds);
    for authorization in [
        String::new(),
        "Bearer".to_owned(),
        "not.a.token".to_owned(),
        token(&claims(&body), "another secret", Algorithm::HS256),
        token(&claims(&body), LIVEKIT_SECRET, Algorithm::HS384),
        changed("iss", json!("another key")),
        changed("exp", at(-60)),
        changed("nbf", at(61)),
        changed("sha256", json!(STANDARD.encode(Sha256::digest("another body")))),
        changed("sha256", json!(hash[..hash.len() - 4])),
        changed("sha256", json!("")),
        changed("sha256", json!(hex::encode(Sha256::digest(&body)))),
        without("iss"),
        without("exp"),
        without("sha256"),
    ] {
        let answer = post(&api, &authorization, CONTENT_TYPE, &body).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{authorization}");
        answer.assert_error(StatusCode::UNAUTHORIZED);
    }
    for (key, seconds) in [("exp", -59), ("nbf", 60)] {
        let answer = post(&api, &changed(key, at(seconds)), CONTENT_TYPE, &body).await;
        assert_taken(&answer, if key == "exp" { "accepted" } else { "duplicate" });
    }
    assert_eq!(failures(&api).await, []);
}

#[tokio::test]
async fn a_token_is_taken_with_and_without_its_scheme() {
    let api = Api::start().await;
    let body = sample("participant_left", fresh_id());
    let authorization = format!("Bearer {}", signed(&body));
    assert_taken(&post(&api, &authorization, CONTENT_TYPE, &body).await, "ignored");
    let late: DateTime<Utc> = noon() + TimeDelta::minutes(7);
    api.clock.forward(late - noon());
    post(&api, &authorization, CONTENT_TYPE, &body).await.assert_error(StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_signed_body_of_another_type_is_refused() {
    let api = Api::start().await;
    let body = sample("egress_ended__EGRESS_COMPLETE", fresh_id());
    let answer = post(&api, &signed(&body), "application/json", &body).await;
    answer.assert_error(StatusCode::BAD_REQUEST);
    assert_eq!(answer.json()["errors"][0]["field"], json!("Content-Type"));
    let answer = post(&api, &signed(&body), "Application/Webhook+JSON; charset=utf-8", &body).await;
    assert_taken(&answer, "accepted");
}

#[tokio::test]
async fn what_is_signed_and_makes_no_sense_is_kept_and_not_sent_again() {
    let api = Api::start().await;
    let bad = r#"{"event":"egress_ended","id":"EV_1","egressInfo":{"egressId":"EG","status":"?"}}"#;
    for (body, code, pointer) in [
        ("{\"event\": \"egress_e", FailureCode::MalformedJson, None),
        (bad, FailureCode::InvalidEvent, Some("/egress/status")),
    ] {
        assert_taken(&post(&api, &signed(body), CONTENT_TYPE, body).await, "failed");
        let kept = failures(&api).await;
        let kept = kept.iter().find(|kept| kept.rejection.code == code).unwrap();
        assert_eq!((kept.rejection.pointer.as_deref(), &*kept.source), (pointer, "livekit"));
    }
}
