//! `/api/webhooks/…`: endpoints, deliveries and redeliveries, as their owners and staff manage them.

use std::collections::HashSet;

use axum::body::Body;
use chrono::TimeDelta;
use finalizer::courier::{open_headers, open_secrets};
use finalizer::store::{AttemptResult, DeliveryFilter, Next, Verdict};
use finalizer::webhook::{EventType, Secret};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::{Answer, Api, add_key};
use crate::harness::receiver::{Receiver, Reply};
use crate::harness::service::keyring;
use crate::harness::{after, ended, endpoint, fresh_id, noon};
use crate::store::{attempt, claim, enter, recorded};

const ENDPOINTS: &str = "/api/webhooks/endpoints/";
const REDELIVERIES: &str = "/api/webhooks/redeliveries/";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

impl Api {
    async fn ask(&self, method: Method, path: &str, key: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(path).header("x-api-key", key);
        self.call(request, Body::from(body)).await
    }

    /// As the owner 7; the answer's data.
    async fn done(&self, method: Method, path: &str, body: &Value) -> Value {
        let answer = self.ask(method, path, &self.owner_key, body).await;
        assert!(answer.status.is_success(), "{}", answer.json());
        answer.json()["data"].clone()
    }

    async fn create(&self, body: &Value) -> Value {
        self.done(Method::POST, ENDPOINTS, body).await
    }

    /// The fields that are wrong with a request.
    async fn wrong(&self, method: Method, path: &str, body: &Value) -> Vec<String> {
        let answer = self.ask(method, path, &self.owner_key, body).await;
        answer.assert_error(StatusCode::BAD_REQUEST);
        let errors = answer.json()["errors"].as_array().unwrap().clone();
        assert!(errors.iter().all(|error| !error["message"].as_str().unwrap().is_empty()));
        errors.iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect()
    }

    /// Ends a call of the owner 7's and fails its only delivery, for good.
    async fn exhausted(&self, endpoint_id: Uuid) -> Uuid {
        let endpoint = self.test.store.endpoint(endpoint_id).await.unwrap().unwrap();
        let process = enter(&self.test, 0).await;
        self.test.take(&[ended(fresh_id())]).await;
        let owed = claim(&self.test, process, 0, &endpoint, 1).await.remove(0);
        let mut failed = attempt(&owed, Next::Exhausted);
        failed.attempt.status = Some(500);
        let failed = AttemptResult { verdict: Verdict::Fails, ..failed };
        recorded(&self.test, process, &[failed]).await;
        owed.delivery_id
    }
}

fn at(path: &str, id: &Value) -> String {
    format!("{path}{}/", id.as_str().unwrap())
}

fn id(value: &Value) -> Uuid {
    value["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_endpoint_is_made_shown_changed_and_deleted() {
    let api = Api::start().await;
    let made = api
        .create(&json!({
            "url": "https://example.com/hook", "event_types": ["session.finalized"],
            "tenant_id": "acme", "payload": "full", "headers": {"X-Env": "prod"},
            "timeout_seconds": 20, "rate_limit_per_minute": 600,
        }))
        .await;
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_") && secret.len() == 50, "{secret}");
    let mut expected = json!({
        "id": made["id"], "url": "https://example.com/hook", "owner": 7, "tenant_id": "acme",
        "character_slug": null, "event_types": ["session.finalized"], "payload": "full",
        "header_names": ["x-env"], "timeout_seconds": 20, "rate_limit_per_minute": 600,
        "disabled_at": null, "disabled_reason": null, "failing_since": null, "failures": 0,
        "percent_to_disabled": 0, "paused_until": null, "old_secrets_end_at": [],
        "created_at": noon(),
    });
    let path = at(ENDPOINTS, &made["id"]);
    assert_eq!(api.done(Method::GET, &path, &Value::Null).await, expected, "without its secret");
    assert_eq!(api.done(Method::GET, ENDPOINTS, &Value::Null).await, json!([expected]));
    assert_eq!(
        api.done(Method::GET, path.trim_end_matches('/'), &Value::Null).await,
        expected,
        "the slash at the end is not needed"
    );

    let change = json!({"url": "https://example.com/new", "tenant_id": null, "event_types": null,
                        "headers": {"X-A": "1", "X-B": "2"}, "rate_limit_per_minute": null});
    expected["url"] = json!("https://example.com/new");
    expected["tenant_id"] = json!(null);
    expected["event_types"] = json!([]);
    expected["header_names"] = json!(["x-a", "x-b"]);
    expected["rate_limit_per_minute"] = json!(null);
    assert_eq!(api.done(Method::PATCH, &path, &change).await, expected);
    assert_eq!(api.done(Method::PATCH, &path, &json!({})).await, expected, "nothing changes");
    let kept = api.test.store.endpoint(id(&made)).await.unwrap().unwrap();
    let secrets = open_secrets(&keyring(), &kept.sealed_secret).unwrap();
    assert_eq!(secrets.live(noon()).map(Secret::reveal).collect::<Vec<_>>(), [secret]);
    let headers = open_headers(&keyring(), kept.sealed_headers.as_deref()).unwrap().to_map();
    assert_eq!((&headers["x-a"], &headers["x-b"]), (&"1".parse().unwrap(), &"2".parse().unwrap()));

    api.done(Method::DELETE, &path, &Value::Null).await;
    let answer = api.get(&path, &api.owner_key).await;
    answer.assert_error(StatusCode::NOT_FOUND);
    assert_eq!(api.done(Method::GET, ENDPOINTS, &Value::Null).await, json!([]));
}

#[tokio::test]
async fn an_owner_sees_and_changes_nobody_elses() {
    let api = Api::start().await;
    let other_key = add_key(&api.test, 9, 8, false).await;
    let url = json!({"url": "https://example.com/"});
    let own = api.create(&url).await;
    let others = api.ask(Method::POST, ENDPOINTS, &other_key, &url).await.json()["data"].clone();
    let for_all = json!({"url": "https://example.com/", "owner": null});
    let staffs = api.ask(Method::POST, ENDPOINTS, &api.staff_key, &for_all).await.json();
    let for_eight = json!({"url": "https://example.com/", "owner": 8});
    api.ask(Method::POST, ENDPOINTS, &api.staff_key, &for_eight).await;
    assert_eq!((&own["owner"], &others["owner"]), (&json!(7), &json!(8)));
    assert_eq!(staffs["data"]["owner"], json!(null));

    let listed = async |key: &str, query: &str| {
        let answer = api.get(&format!("{ENDPOINTS}{query}"), key).await;
        answer.json()["data"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(listed(&api.owner_key, "").await, 1);
    assert_eq!(listed(&other_key, "?owner=8").await, 2);
    assert_eq!(listed(&api.staff_key, "").await, 4);
    assert_eq!(listed(&api.staff_key, "?owner=8").await, 2);
    let query = format!("{ENDPOINTS}?owner=8");
    assert_eq!(api.wrong(Method::GET, &query, &Value::Null).await, ["owner"]);
    for owner in [json!(8), json!(null)] {
        let body = json!({"url": "https://example.com/", "owner": owner});
        assert_eq!(api.wrong(Method::POST, ENDPOINTS, &body).await, ["owner"]);
    }

    let missing = json!(fresh_id().to_string());
    for foreign in [&others["id"], &staffs["data"]["id"], &missing] {
        let path = at(ENDPOINTS, foreign);
        let mut answers = Vec::new();
        for (method, action) in [
            (Method::GET, ""),
            (Method::PATCH, ""),
            (Method::DELETE, ""),
            (Method::POST, "enable/"),
            (Method::POST, "disable/"),
            (Method::POST, "ping/"),
            (Method::POST, "rotate-secret/"),
        ] {
            let path = format!("{path}{action}");
            let answer = api.ask(method, &path, &api.owner_key, &Value::Null).await;
            answer.assert_error(StatusCode::NOT_FOUND);
            answers.push(answer.body);
        }
        let body = json!({"endpoint_id": foreign});
        let answer = api.ask(Method::POST, REDELIVERIES, &api.owner_key, &body).await;
        answer.assert_error(StatusCode::NOT_FOUND);
        answers.push(answer.body);
        let query = format!("/api/webhooks/deliveries/?endpoint_id={}", foreign.as_str().unwrap());
        answers.push(api.get(&query, &api.owner_key).await.body);
        let different: HashSet<_> = answers.into_iter().collect();
        assert_eq!(different.len(), 1, "a foreign endpoint and a missing one are the same");
    }
    assert!(api.test.store.endpoint(id(&others)).await.unwrap().unwrap().disabled.is_none());
    let answer = api.get(&at(ENDPOINTS, &others["id"]), &api.staff_key).await;
    assert_eq!(answer.status, StatusCode::OK, "staff see all");
}

/// Of each field, values that it cannot have.
fn wrong_values() -> Vec<(&'static str, Vec<Value>)> {
    let long = "x".repeat(2050);
    vec![
        (
            "url",
            vec![
                json!(null),
                json!(7),
                json!(""),
                json!("example.com"),
                json!("ftp://example.com/"),
                json!("http://1.1.1.1/"),
                json!("https://me:secret@example.com/"),
                json!("https://10.0.0.1/"),
                json!("https://169.254.169.254/latest/"),
                json!("https://[::1]/"),
                json!("https://example.com:99999/"),
                json!(format!("https://example.com/{long}")),
            ],
        ),
        (
            "secret",
            vec![
                json!(7),
                json!(""),
                json!("hunter2"),
                json!("whsec_"),
                json!("whsec_c2hvcnQ="),
                json!(format!("whsec_{}", "QUFB".repeat(30))),
            ],
        ),
        ("event_types", vec![json!("session.finalized"), json!(["session.exploded"]), json!([7])]),
        ("payload", vec![json!(null), json!("fat"), json!(["thin"])]),
        ("timeout_seconds", vec![json!(0), json!(31), json!(1.5), json!(-1), json!("soon")]),
        ("rate_limit_per_minute", vec![json!(0), json!(-7), json!(600_001), json!(0.5)]),
        ("tenant_id", vec![json!(""), json!(7), json!("x".repeat(513)), json!("a\u{0}b")]),
        ("character_slug", vec![json!(""), json!(["support-bot"])]),
        (
            "headers",
            vec![
                json!("X-A: 1"),
                json!({"X-A": 1}),
                json!({"Host": "x"}),
                json!({"webhook-id": "x"}),
                json!({"X-A": "1\r\nHost: evil"}),
                json!({"a b": "1"}),
                json!({"": "1"}),
            ],
        ),
        ("urll", vec![json!("https://example.com/")]),
    ]
}

#[tokio::test]
async fn everything_that_is_wrong_is_named() {
    let api = Api::start().await;
    for (name, values) in wrong_values() {
        for value in values {
            let mut body = json!({"url": "https://example.com/"});
            body[name] = value.clone();
            let wrong = api.wrong(Method::POST, ENDPOINTS, &body).await;
            assert_eq!(wrong, [name], "{value}");
        }
    }
}

#[tokio::test]
async fn several_wrong_fields_are_named_at_once_and_nothing_is_made() {
    let api = Api::start().await;
    let both = json!({"url": "nowhere", "payload": "fat", "colour": "red"});
    assert_eq!(api.wrong(Method::POST, ENDPOINTS, &both).await, ["url", "payload", "colour"]);
    assert_eq!(api.wrong(Method::POST, ENDPOINTS, &json!({})).await, ["url"]);
    assert_eq!(api.wrong(Method::POST, ENDPOINTS, &json!([1])).await, ["body"]);
    let request = Request::builder().method(Method::POST).uri(ENDPOINTS);
    let answer = api.call(request.header("x-api-key", &api.owner_key), "{\"url\":").await;
    answer.assert_error(StatusCode::BAD_REQUEST);
    assert_eq!(api.done(Method::GET, ENDPOINTS, &Value::Null).await, json!([]), "none was made");
}

#[tokio::test]
async fn a_wrong_change_is_named_and_changes_nothing() {
    let api = Api::start().await;
    let made = api.create(&json!({"url": "https://example.com/"})).await;
    let path = at(ENDPOINTS, &made["id"]);
    let owner = json!({"owner": 8, "url": "https://127.0.0.1.nip/\u{0}"});
    assert!(api.wrong(Method::PATCH, &path, &owner).await.contains(&"owner".to_owned()));
    for (name, value) in [("url", json!("http://10.0.0.1/")), ("payload", json!(null))] {
        assert_eq!(api.wrong(Method::PATCH, &path, &json!({name: value})).await, [name]);
    }
    let rotate = format!("{path}rotate-secret/");
    for (name, value) in [
        ("overlap_seconds", json!(-1)),
        ("overlap_seconds", json!(604_801)),
        ("overlap_seconds", json!("1 day")),
        ("secret", json!("whsec_c2hvcnQ=")),
    ] {
        assert_eq!(api.wrong(Method::POST, &rotate, &json!({name: value})).await, [name]);
    }
    for id in ["x", "7", "0197A0C47C1E7A449D5E3F2B8C6D1E10", "..", "%00"] {
        let path = format!("{ENDPOINTS}{id}/");
        assert_eq!(api.wrong(Method::GET, &path, &Value::Null).await, ["id"], "{id}");
    }
    api.ask(Method::PUT, &path, &api.owner_key, &json!({}))
        .await
        .assert_error(StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_secret_of_their_own_is_taken_and_rotated() {
    let api = Api::start().await;
    let made = api.create(&json!({"url": "https://example.com/", "secret": SECRET})).await;
    assert_eq!(made["secret"], json!(SECRET));
    let rotate = format!("{}rotate-secret/", at(ENDPOINTS, &made["id"]));
    let live = async || {
        let kept = api.test.store.endpoint(id(&made)).await.unwrap().unwrap();
        let secrets = open_secrets(&keyring(), &kept.sealed_secret).unwrap();
        secrets.live(noon()).map(Secret::reveal).collect::<Vec<_>>()
    };
    let rotated = api.done(Method::POST, &rotate, &Value::Null).await;
    let second = rotated["secret"].as_str().unwrap().to_owned();
    assert_eq!(rotated["old_secrets_end_at"], json!([noon() + TimeDelta::hours(24)]));
    assert_eq!(live().await, [second.clone(), SECRET.to_owned()]);
    let short = json!({"overlap_seconds": 60, "secret": SECRET});
    let rotated = api.done(Method::POST, &rotate, &short).await;
    assert_eq!(rotated["old_secrets_end_at"], json!([after(60)]));
    assert_eq!(live().await, [SECRET.to_owned(), second]);
    let again = api.ask(Method::POST, &rotate, &api.owner_key, &short).await;
    again.assert_error(StatusCode::CONFLICT);
    for _ in 0..8 {
        api.done(Method::POST, &rotate, &Value::Null).await;
    }
    let eleventh = api.ask(Method::POST, &rotate, &api.owner_key, &Value::Null).await;
    eleventh.assert_error(StatusCode::CONFLICT);
    let rotated = api.done(Method::POST, &rotate, &json!({"overlap_seconds": 0})).await;
    assert_eq!(rotated["old_secrets_end_at"], json!([]));
    assert_eq!(live().await, [rotated["secret"].as_str().unwrap()]);
}

#[tokio::test]
async fn an_owner_has_fifty_endpoints_and_no_more() {
    let api = Api::start().await;
    for _ in 0..50 {
        api.create(&json!({"url": "https://example.com/"})).await;
    }
    let body = json!({"url": "https://example.com/"});
    let answer = api.ask(Method::POST, ENDPOINTS, &api.owner_key, &body).await;
    answer.assert_error(StatusCode::CONFLICT);
    let body = json!({"url": "https://example.com/", "owner": 7});
    let answer = api.ask(Method::POST, ENDPOINTS, &api.staff_key, &body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "staff know what they do");
}

#[tokio::test]
async fn a_ping_tells_what_came_back_even_from_a_disabled_endpoint() {
    let api = Api::start().await;
    let receiver = Receiver::start().await;
    let made =
        api.create(&json!({"url": receiver.url, "secret": crate::harness::receiver::SECRET})).await;
    let path = at(ENDPOINTS, &made["id"]);
    api.done(Method::POST, &format!("{path}disable/"), &Value::Null).await;
    let pinged = api.done(Method::POST, &format!("{path}ping/"), &Value::Null).await;
    assert_eq!((&pinged["is_delivered"], &pinged["status"]), (&json!(true), &json!(204)));
    let told = receiver.told().remove(0);
    assert_eq!(json!(told.id), pinged["message_id"]);
    assert_eq!(told.event_type(), "endpoint.ping");
    assert_eq!(told.json()["data"], json!({"endpoint_id": made["id"]}));
    assert_eq!(pinged["address"], json!(null), "it is not a public one");

    let refusing = Receiver::that(|_| Reply::Say(500)).await;
    let change = json!({"url": refusing.url});
    api.done(Method::PATCH, &path, &change).await;
    let pinged = api.done(Method::POST, &format!("{path}ping/"), &Value::Null).await;
    assert_eq!((&pinged["is_delivered"], &pinged["status"]), (&json!(false), &json!(500)));
    assert_eq!(pinged["response_body"], json!("so I say"));
    api.done(Method::PATCH, &path, &json!({"url": "http://127.0.0.1:9/"})).await;
    let pinged = api.done(Method::POST, &format!("{path}ping/"), &Value::Null).await;
    assert_eq!((&pinged["error"], &pinged["status"]), (&json!("connect"), &json!(null)));
}

#[tokio::test]
async fn an_endpoint_is_disabled_and_enabled_by_hand() {
    let api = Api::start().await;
    let path = at(ENDPOINTS, &api.create(&json!({"url": "https://example.com/"})).await["id"]);
    let disabled = api.done(Method::POST, &format!("{path}disable/"), &Value::Null).await;
    assert_eq!(disabled["disabled_reason"], json!("by_hand"));
    assert_eq!(disabled["disabled_at"], json!(noon()));
    api.clock.forward(TimeDelta::seconds(9));
    let again = api.done(Method::POST, &format!("{path}disable/"), &Value::Null).await;
    assert_eq!(again, disabled, "once is enough");
    let enabled = api.done(Method::POST, &format!("{path}enable/"), &Value::Null).await;
    assert_eq!(
        (&enabled["disabled_at"], &enabled["disabled_reason"]),
        (&json!(null), &json!(null))
    );
}

#[tokio::test]
async fn deliveries_are_seen_by_the_endpoints_owner_and_staff() {
    let api = Api::start().await;
    let other_key = add_key(&api.test, 9, 8, false).await;
    let own = api.create(&json!({"url": "https://example.com/"})).await;
    api.test.store.add_endpoint(&endpoint()).await.unwrap();
    let delivery_id = api.exhausted(id(&own)).await;
    let session_id = api.finalized_session().await;
    let listed = async |key: &str, query: &str| {
        let path = format!("/api/webhooks/deliveries/{query}");
        let data = api.get(&path, key).await.json()["data"]["deliveries"].clone();
        let ids = data.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(listed(&api.owner_key, "").await.len(), 2);
    assert_eq!(listed(&api.staff_key, "").await.len(), 4, "with those to the endpoint for all");
    assert_eq!(listed(&other_key, "").await, [""; 0]);
    let by_session = format!("?session_id={session_id}");
    assert_eq!(listed(&api.owner_key, &by_session).await.len(), 1);
    assert_eq!(listed(&other_key, &by_session).await, [""; 0]);
    assert_eq!(listed(&api.owner_key, "?status=exhausted").await, [delivery_id.to_string()]);

    let path = format!("/api/webhooks/deliveries/{delivery_id}/");
    let data = api.done(Method::GET, &path, &Value::Null).await;
    assert_eq!(
        (&data["status"], &data["attempts"][0]["status"]),
        (&json!("exhausted"), &json!(500))
    );
    assert_eq!(data["body"]["type"], json!("session.finalized"));
    let answer = api.get(&path, &api.owner_key).await;
    let story = api.test.store.delivery(delivery_id).await.unwrap().unwrap();
    let sent = std::str::from_utf8(&story.body).unwrap();
    let shown = std::str::from_utf8(&answer.body).unwrap();
    assert!(shown.contains(&format!("\"body\":{sent}")), "the bytes as they are sent: {shown}");
    assert_eq!(data["attempts"][0]["duration_ms"], json!(1.5));
    assert_eq!(data["attempts"][0]["response_head"], json!("HTTP/1.1 200 OK"));
    assert_eq!(data["attempts"][0]["address"], json!(null), "192.0.2.1 is not a public one");
    let staffs = api.get(&path, &api.staff_key).await.json()["data"].clone();
    assert_eq!(staffs["attempts"][0]["address"], json!("192.0.2.1:443"));
    let by_message = format!("?message_id={}", data["message_id"].as_str().unwrap());
    assert_eq!(listed(&api.owner_key, &by_message).await, [delivery_id.to_string()]);
    assert_eq!(listed(&api.staff_key, &by_message).await.len(), 2);

    let by_endpoint = format!("?endpoint_id={}", own["id"].as_str().unwrap());
    api.done(Method::DELETE, &at(ENDPOINTS, &own["id"]), &Value::Null).await;
    assert_eq!(listed(&api.staff_key, &by_endpoint).await.len(), 2, "though it is deleted");

    for path in [path, format!("/api/webhooks/deliveries/{}/", fresh_id())] {
        let answer = api.get(&path, &other_key).await;
        answer.assert_error(StatusCode::NOT_FOUND);
        assert_eq!(answer.json()["message"], json!("There is no such delivery."));
        let redeliver = format!("{path}redeliver/");
        let answer = api.ask(Method::POST, &redeliver, &other_key, &Value::Null).await;
        answer.assert_error(StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn deliveries_come_page_by_page() {
    let api = Api::start().await;
    api.create(&json!({"url": "https://example.com/"})).await;
    api.create(&json!({"url": "https://example.com/other"})).await;
    for _ in 0..5 {
        api.finalized_session().await;
    }
    let (mut seen, mut query) = (Vec::new(), "?page_size=3".to_owned());
    loop {
        let path = format!("/api/webhooks/deliveries/{query}");
        let data = api.done(Method::GET, &path, &Value::Null).await;
        let page = data["deliveries"].as_array().unwrap().clone();
        seen.extend(page.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        let Some(next) = data["next_before"].as_str() else { break };
        query = format!("?page_size=3&before={next}");
    }
    assert_eq!(seen.len(), 10);
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 10);
    assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "the newest first");
    for (query, field) in [
        ("?page_size=0", "page_size"),
        ("?page_size=201", "page_size"),
        ("?page_size=many", "page_size"),
        ("?before=yesterday", "before"),
        ("?status=lost", "status"),
        ("?event_type=session.finalized", "event_type"),
        ("?session_id=sess_1", "session_id"),
        ("?message_id=1", "message_id"),
        ("?endpoint_id=", "endpoint_id"),
        ("?state=pending", "state"),
    ] {
        let path = format!("/api/webhooks/deliveries/{query}");
        assert_eq!(api.wrong(Method::GET, &path, &Value::Null).await, [field]);
    }
}

#[tokio::test]
async fn a_delivery_is_sent_again_unless_its_endpoint_takes_no_more() {
    let api = Api::start().await;
    let own = api.create(&json!({"url": "https://example.com/"})).await;
    let delivery_id = api.exhausted(id(&own)).await;
    let path = format!("/api/webhooks/deliveries/{delivery_id}/redeliver/");
    let again = api.done(Method::POST, &path, &Value::Null).await;
    assert_eq!((&again["status"], &again["is_redelivery"]), (&json!("pending"), &json!(true)));
    assert_eq!(again["next_attempt_at"], json!(noon()));
    let disable = format!("{}disable/", at(ENDPOINTS, &own["id"]));
    api.done(Method::POST, &disable, &Value::Null).await;
    let answer = api.ask(Method::POST, &path, &api.owner_key, &Value::Null).await;
    answer.assert_error(StatusCode::CONFLICT);
}

#[tokio::test]
async fn a_redelivery_is_counted_ordered_watched_and_stopped() {
    let api = Api::start().await;
    let other_key = add_key(&api.test, 9, 8, false).await;
    let own = api.create(&json!({"url": "https://example.com/"})).await;
    for _ in 0..3 {
        api.exhausted(id(&own)).await;
    }
    api.clock.forward(TimeDelta::seconds(60));
    let mut order = json!({"endpoint_id": own["id"], "statuses": ["exhausted"], "dry_run": true});
    let counted = api.ask(Method::POST, REDELIVERIES, &api.owner_key, &order).await;
    assert_eq!(counted.status, StatusCode::OK);
    assert_eq!(counted.json()["data"], json!({"dry_run": true, "matched": 3}));
    assert_eq!(api.done(Method::GET, REDELIVERIES, &Value::Null).await, json!([]));

    order["dry_run"] = json!(false);
    order["per_second"] = json!(2);
    let job = api.done(Method::POST, REDELIVERIES, &order).await;
    assert_eq!((&job["status"], &job["matched"]), (&json!("running"), &json!(3)));
    let second = api.ask(Method::POST, REDELIVERIES, &api.owner_key, &order).await;
    second.assert_error(StatusCode::CONFLICT);
    api.test.store.advance_redelivery("https://x", after(60)).await.unwrap();
    let path = at(REDELIVERIES, &job["id"]);
    let now = api.done(Method::GET, &path, &Value::Null).await;
    assert_eq!((&now["redelivered"], &now["status"]), (&json!(2), &json!("running")));
    assert_eq!(api.done(Method::GET, REDELIVERIES, &Value::Null).await, json!([now]));
    api.get(&path, &other_key).await.assert_error(StatusCode::NOT_FOUND);
    let stranger = api.ask(Method::DELETE, &path, &other_key, &Value::Null).await;
    stranger.assert_error(StatusCode::NOT_FOUND);
    let stopped = api.done(Method::DELETE, &path, &Value::Null).await;
    assert_eq!(stopped["status"], json!("cancelled"));
    let everything = DeliveryFilter { limit: 9, ..DeliveryFilter::default() };
    let all = api.test.store.deliveries(&everything).await.unwrap();
    assert_eq!(all.iter().filter(|one| one.redelivered_after.is_some()).count(), 2);
    assert!(all.iter().all(|one| one.event_type == EventType::SessionFinalized));

    for (name, value) in [
        ("endpoint_id", json!("mine")),
        ("since", json!("yesterday")),
        ("until", json!("1999-01-01T00:00:00Z")),
        ("statuses", json!([])),
        ("statuses", json!(["delivered"])),
        ("per_second", json!(0)),
        ("per_second", json!(5001)),
        ("dry_run", json!("yes")),
        ("deliveries", json!([])),
    ] {
        let mut order = json!({"endpoint_id": own["id"], "since": noon()});
        order[name] = value.clone();
        assert_eq!(api.wrong(Method::POST, REDELIVERIES, &order).await, [name], "{value}");
    }
    assert_eq!(api.wrong(Method::POST, REDELIVERIES, &json!({})).await, ["endpoint_id"]);
}

#[tokio::test]
async fn nobody_without_a_key_manages_webhooks() {
    let api = Api::start().await;
    for (method, path) in [
        (Method::GET, ENDPOINTS),
        (Method::POST, ENDPOINTS),
        (Method::GET, "/api/webhooks/deliveries/"),
        (Method::GET, REDELIVERIES),
        (Method::POST, REDELIVERIES),
    ] {
        let request = Request::builder().method(method).uri(path);
        api.call(request, Body::from("{}")).await.assert_error(StatusCode::UNAUTHORIZED);
    }
}
