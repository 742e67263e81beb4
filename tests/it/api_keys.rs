//! `/api/auth/api-keys/`: keys as their users and staff manage them, and when they were used.

use axum::body::Body;
use chrono::TimeDelta;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::api::{Answer, Api, add_key, token};
use crate::harness::service::Site;
use crate::harness::{noon, sqlite};

const KEYS: &str = "/api/auth/api-keys/";

impl Api {
    async fn keys(&self, method: Method, path: &str, key: &str, body: &Value) -> Answer {
        let request = Request::builder().method(method).uri(path).header("x-api-key", key);
        self.call(request, Body::from(body.to_string())).await
    }

    async fn create_key(&self, by: &str, body: &Value) -> Value {
        let answer = self.keys(Method::POST, KEYS, by, body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.json());
        answer.json()["data"].clone()
    }

    async fn listed_keys(&self, query: &str, by: &str) -> Vec<Value> {
        let answer = self.get(&format!("{KEYS}{query}"), by).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.json());
        answer.json()["data"].as_array().unwrap().clone()
    }

    async fn works(&self, key: &str) -> bool {
        self.get(KEYS, key).await.status == StatusCode::OK
    }
}

fn at(made: &Value) -> String {
    format!("{KEYS}{}/", made["id"].as_str().unwrap())
}

fn text(made: &Value) -> String {
    made["key"].as_str().unwrap().to_owned()
}

#[track_caller]
fn assert_wrong(answer: &Answer, fields: &[&str]) {
    answer.assert_error(StatusCode::BAD_REQUEST);
    let body = answer.json();
    let errors = body["errors"].as_array().unwrap().iter();
    assert_eq!(errors.map(|error| &error["field"]).collect::<Vec<_>>(), fields, "{body}");
}

#[tokio::test]
async fn a_key_is_shown_once_then_listed_renamed_stopped_and_deleted() {
    let api = Api::start().await;
    let made = api.create_key(&api.owner_key, &json!({"name": "crm"})).await;
    let key = text(&made);
    assert!(key.starts_with("sk_") && key.len() == 67, "{key}");
    let mut expected = json!({
        "id": made["id"], "key_preview": &key[..11], "name": "crm", "user": 7,
        "is_staff": false, "is_active": true, "created_at": noon(), "last_used_at": null,
    });
    let listed = api.listed_keys("", &api.owner_key).await;
    assert!(listed.contains(&expected), "without the key itself: {listed:?}");
    assert!(api.works(&key).await);

    let change = json!({"name": "billing", "is_active": false});
    (expected["name"], expected["is_active"]) = (json!("billing"), json!(false));
    let answer = api.keys(Method::PATCH, &at(&made), &api.owner_key, &change).await;
    assert_eq!(answer.json()["data"], expected);
    assert!(!api.works(&key).await);
    let again = json!({"is_active": true});
    api.keys(Method::PATCH, at(&made).trim_end_matches('/'), &api.owner_key, &again).await;
    assert!(api.works(&key).await);
    let answer = api.keys(Method::PATCH, &at(&made), &api.owner_key, &json!({})).await;
    expected["is_active"] = json!(true);
    assert_eq!(answer.json()["data"], expected, "nothing changes");

    let answer = api.keys(Method::DELETE, &at(&made), &api.owner_key, &json!({})).await;
    assert_eq!(answer.json()["data"], json!({"id": made["id"]}));
    assert!(!api.works(&key).await);
    assert_eq!(api.listed_keys("", &api.owner_key).await.len(), 1, "the one that asks");
    let answer = api.keys(Method::DELETE, &at(&made), &api.owner_key, &json!({})).await;
    answer.assert_error(StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn whoever_revokes_the_key_that_they_use_is_told_so() {
    let api = Api::start().await;
    for (method, body) in
        [(Method::PATCH, json!({"is_active": false})), (Method::DELETE, json!({}))]
    {
        let (own, other) = (
            api.create_key(&api.owner_key, &json!({})).await,
            api.create_key(&api.owner_key, &json!({})).await,
        );
        let key = text(&own);
        let told = "this request was made with it";
        let answer = api.keys(method.clone(), &at(&other), &key, &body).await;
        assert!(!answer.json()["message"].as_str().unwrap().contains(told), "{}", answer.json());
        let answer = api.keys(method, &at(&own), &key, &body).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.json()["message"].as_str().unwrap().contains(told), "{}", answer.json());
        assert!(!api.works(&key).await);
    }
}

#[tokio::test]
async fn only_staff_make_keys_for_others_and_keys_that_are_staff() {
    let api = Api::start().await;
    for (body, fields) in [
        (json!({"user": 8}), vec!["user"]),
        (json!({"is_staff": true}), vec!["is_staff"]),
        (json!({"user": 8, "is_staff": true}), vec!["user", "is_staff"]),
    ] {
        let answer = api.keys(Method::POST, KEYS, &api.owner_key, &body).await;
        assert_wrong(&answer, &fields);
    }
    assert_eq!(api.listed_keys("", &api.staff_key).await.len(), 2, "nothing was made");
    let body = json!({"user": 7, "is_staff": false});
    assert_eq!(api.create_key(&api.owner_key, &body).await["user"], json!(7));

    let for_eight = api.create_key(&api.staff_key, &json!({"user": 8})).await;
    assert_eq!(api.listed_keys("", &text(&for_eight)).await.len(), 1, "it sees itself");
    let staffs = api.create_key(&api.staff_key, &json!({"is_staff": true})).await;
    assert_eq!((&staffs["user"], &staffs["is_staff"]), (&json!(1), &json!(true)));
    assert_eq!(api.listed_keys("", &text(&staffs)).await.len(), 5);
}

#[tokio::test]
async fn everything_that_is_wrong_is_named() {
    let api = Api::start().await;
    let made = api.create_key(&api.owner_key, &json!({})).await;
    for (field, values) in [
        ("name", vec![json!(5), json!(""), json!(null), json!("x".repeat(513)), json!("a\0")]),
        ("is_active", vec![json!("true"), json!(1), json!(null)]),
        ("user", vec![json!(8)]),
        ("is_staff", vec![json!(true)]),
        ("key", vec![json!("sk_mine")]),
    ] {
        for value in values {
            let answer =
                api.keys(Method::PATCH, &at(&made), &api.owner_key, &json!({field: value})).await;
            assert_wrong(&answer, &[field]);
        }
    }
    for (field, values) in [
        ("name", vec![json!(5), json!(""), json!(null)]),
        ("user", vec![json!("seven"), json!(7.5), json!(null)]),
        ("is_staff", vec![json!("false"), json!(0), json!(null)]),
        ("is_active", vec![json!(true)]),
        ("key", vec![json!("sk_mine")]),
    ] {
        for value in values {
            let body = json!({field: value});
            assert_wrong(&api.keys(Method::POST, KEYS, &api.owner_key, &body).await, &[field]);
        }
    }
    assert_wrong(&api.get(&format!("{KEYS}?user=8"), &api.owner_key).await, &["user"]);
    assert_wrong(&api.get(&format!("{KEYS}?page=1"), &api.owner_key).await, &["page"]);
    let path = format!("{KEYS}none/");
    assert_wrong(&api.keys(Method::DELETE, &path, &api.owner_key, &json!({})).await, &["id"]);
    assert_eq!(api.listed_keys("", &api.owner_key).await.len(), 2, "nothing was made");
}

#[tokio::test]
async fn a_foreign_key_a_missing_one_and_one_that_is_staff_are_the_same() {
    let api = Api::start().await;
    let other_key = add_key(&api.test, 9, 8, false).await;
    let foreign = api.create_key(&other_key, &json!({})).await;
    let body = json!({"user": 7, "is_staff": true});
    let staffs = api.create_key(&api.staff_key, &body).await;
    let missing = json!({"id": uuid::Uuid::nil().to_string()});
    let stop = json!({"is_active": false});
    for (method, body) in [(Method::PATCH, &stop), (Method::DELETE, &json!({}))] {
        let nothing = api.keys(method.clone(), &at(&missing), &api.owner_key, body).await;
        nothing.assert_error(StatusCode::NOT_FOUND);
        for made in [&foreign, &staffs] {
            let answer = api.keys(method.clone(), &at(made), &api.owner_key, body).await;
            assert_eq!((answer.status, &answer.body), (nothing.status, &nothing.body));
        }
    }
    assert!(api.works(&text(&foreign)).await && api.works(&text(&staffs)).await);
    assert_eq!(api.listed_keys("", &api.owner_key).await.len(), 1, "its own");
    assert_eq!(api.listed_keys("?user=7", &api.staff_key).await.len(), 2);

    // What staff stopped, an ordinary key of the same user does not start again.
    api.keys(Method::PATCH, &at(&staffs), &api.staff_key, &stop).await;
    let start = json!({"is_active": true});
    api.keys(Method::PATCH, &at(&staffs), &api.owner_key, &start).await;
    assert!(!api.works(&text(&staffs)).await);
}

#[tokio::test]
async fn whoever_comes_with_a_token_manages_the_keys_of_its_user() {
    let api = Api::start().await;
    let request = Request::post(KEYS).header("authorization", format!("Bearer {}", token(7)));
    let answer = api.call(request, Body::empty()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.json());
    let key = text(&answer.json()["data"]);
    assert_eq!(api.listed_keys("", &key).await.len(), 2);
}

#[tokio::test]
async fn a_user_has_a_bounded_number_of_keys() {
    let api = Api::start().await;
    for _ in 1..100 {
        api.create_key(&api.owner_key, &json!({})).await;
    }
    let answer = api.keys(Method::POST, KEYS, &api.owner_key, &json!({})).await;
    answer.assert_error(StatusCode::CONFLICT);
    api.create_key(&api.staff_key, &json!({"user": 7})).await;
}

#[tokio::test]
async fn the_last_use_is_remembered_and_written_for_all_keys_together() {
    let api = Api::start().await;
    let other_key = add_key(&api.test, 9, 8, false).await;
    let uses = async || {
        let mut keys = api.test.store.api_keys(None).await.unwrap();
        keys.sort_by_key(|key| key.user);
        keys.iter().map(|key| key.last_used_at).collect::<Vec<_>>()
    };
    api.works(&api.owner_key).await;
    api.clock.forward(TimeDelta::seconds(30));
    api.works(&api.owner_key).await;
    api.works(&format!("sk_{}", "9".repeat(64))).await;
    assert_eq!(uses().await, [None; 3], "a request does not write");
    api.authenticator.write_uses(&*api.test.store).await;
    let first = Some(noon() + TimeDelta::seconds(30));
    assert_eq!(uses().await, [None, first, None]);

    api.clock.forward(TimeDelta::seconds(60));
    api.works(&other_key).await;
    api.authenticator.write_uses(&*api.test.store).await;
    let second = Some(noon() + TimeDelta::seconds(90));
    assert_eq!(uses().await, [None, first, second]);
    let listed = api.listed_keys("", &api.owner_key).await;
    assert_eq!(listed[0]["last_used_at"], json!(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_is_written_before_the_process_ends() {
    let site = Site::embedded(sqlite().await).await;
    let process = site.start().await;
    assert_eq!(process.caller().get(KEYS).await.0, StatusCode::OK);
    process.stop().await;
    let keys = site.test.store.api_keys(None).await.unwrap();
    assert!(keys[0].last_used_at.is_some());
}
