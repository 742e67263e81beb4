//! Failures by HTTP: staff look at them, replay them, discard them, and have many replayed.

use axum::body::Body;
use finalizer::store::{OpenFailures, Progress, Replay, ReplayState};
use http::{Request, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::{Answer, Api};
use crate::harness::{ended, fresh_id, noon, until};

/// A job that has ended.
pub(crate) fn job() -> Replay {
    Replay {
        replay_id: fresh_id(),
        which: OpenFailures::all(noon()),
        is_dry_run: false,
        is_superseding: false,
        per_second: 1,
        ordered_by: "user 1".to_owned(),
        state: ReplayState::Done,
        matched: Some(0),
        progress: Progress::default(),
        created_at: noon(),
        finished_at: Some(noon()),
    }
}

impl Api {
    async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = Request::post(path).header("x-api-key", &self.staff_key);
        self.call(request, Body::from(body.to_string())).await
    }

    /// The data of a good answer.
    async fn data(&self, path: &str) -> Value {
        let answer = self.get(path, &self.staff_key).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {:?}", answer.body);
        answer.json()["data"].take()
    }

    /// Gives an event that fails; its path.
    async fn fail(&self, event: &str) -> String {
        let request = Request::post("/api/events/")
            .header("x-api-key", &self.staff_key)
            .header("user-agent", "worker/1.2")
            .header("authorization", "Bearer secret.of.ours");
        let answer = self.call(request, Body::from(event.to_owned())).await.json();
        let failure = &answer["data"][0]["failure_id"];
        format!("/api/failures/{}/", failure.as_str().unwrap_or_else(|| panic!("{answer}")))
    }

    async fn conflict(&self, session_id: Uuid) -> String {
        self.take(&[ended(session_id)]).await;
        let mut other = ended(session_id);
        other["close_reason"] = json!("user_hung_up");
        self.fail(&other.to_string()).await
    }
}

#[tokio::test]
async fn a_failure_is_shown_with_its_event_and_its_headers() {
    let api = Api::start().await;
    let event = r#"{ "type": "nothing", "n": 1.10, "n": 2 }"#;
    let path = api.fail(event).await;
    let shown = api.get(&path, &api.staff_key).await;
    let text = String::from_utf8(shown.body.to_vec()).unwrap();
    assert!(text.contains(event), "to the byte: {text}");
    assert!(!text.contains("secret.of.ours") && !text.contains(&api.staff_key), "{text}");
    let data = shown.json()["data"].take();
    assert_eq!((&data["code"], &data["state"]), (&json!("unsupported_type"), &json!("open")));
    let headers = data["headers"].as_array().unwrap();
    assert!(headers.contains(&json!({"name": "user-agent", "value": "worker/1.2"})), "{headers:?}");
    let text = api.data(&api.fail("{ nothing").await).await;
    assert_eq!((&text["event"], &text["event_text"]), (&Value::Null, &json!("{ nothing")));
    let raw = api.get(&format!("{path}raw/"), &api.staff_key).await;
    assert_eq!((raw.status, &*raw.body), (StatusCode::OK, event.as_bytes()));
    assert_eq!(raw.header("content-disposition"), "attachment");
}

#[tokio::test]
async fn an_event_that_is_no_text_is_shown_in_base64() {
    let api = Api::start().await;
    let request = Request::post("/api/events/").header("x-api-key", &api.staff_key);
    let answer = api.call(request, Body::from(&b"\xff\xfe"[..])).await.json();
    let id = answer["data"][0]["failure_id"].as_str().unwrap().to_owned();
    let data = api.data(&format!("/api/failures/{id}/")).await;
    assert_eq!(data["event_base64"], json!("//4="));
    assert_eq!((&data["event"], &data["event_text"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn failures_are_listed_by_what_is_asked_and_page_by_page() {
    let api = Api::start().await;
    for index in 0..5 {
        api.fail(&json!({"type": "nothing", "tenant_id": format!("t{index}")}).to_string()).await;
    }
    let malformed = api.fail("{").await;
    let (mut query, mut seen) = (String::new(), Vec::new());
    loop {
        let page = api.data(&format!("/api/failures/?page_size=2{query}")).await;
        for failure in page["failures"].as_array().unwrap() {
            seen.push(failure["id"].as_str().unwrap().to_owned());
        }
        let Some(next) = page["next_before"].as_str() else { break };
        query = format!("&before={next}");
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 6);
    for (query, count) in [
        ("code=malformed_json", 1),
        ("tenant_id=t3", 1),
        ("state=open", 6),
        ("state=replayed", 0),
        ("since=2026-05-28T12:00:00Z", 6),
        ("until=2026-05-28T12:00:00Z", 0),
    ] {
        let page = api.data(&format!("/api/failures/?{query}")).await;
        assert_eq!(page["failures"].as_array().unwrap().len(), count, "{query}");
    }
    let one = api.data("/api/failures/?code=malformed_json").await;
    assert!(malformed.contains(one["failures"][0]["id"].as_str().unwrap()));
    for query in ["code=bad_luck", "state=new", "before=7", "since=now", "page_size=0", "x=1"] {
        let answer = api.get(&format!("/api/failures/?{query}"), &api.staff_key).await;
        answer.assert_error(StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn a_conflict_is_tried_out_then_superseded_and_then_done() {
    let api = Api::start().await;
    let session_id = fresh_id();
    let path = format!("{}replay/", api.conflict(session_id).await);
    let tried = api.post(&path, &json!({"dry_run": true})).await.json()["data"].take();
    assert_eq!((&tried["outcome"], &tried["dry_run"]), (&json!("failed"), &json!(true)));
    let difference = json!({"field": "close_reason", "stored": null, "event": "user_hung_up"});
    assert_eq!(tried["differences"], json!([difference]));
    let again = api.post(&path, &json!({})).await.json()["data"].take();
    assert_eq!(
        (&again["outcome"], &again["code"]),
        (&json!("failed"), &json!("conflicting_event"))
    );
    assert_eq!(again["failure"]["replays"], json!(1));
    let done = api.post(&path, &json!({"supersede": true})).await.json()["data"].take();
    assert_eq!(done["outcome"], json!("finalized"));
    assert_eq!(done["session_id"], json!(session_id));
    assert_eq!(done["failure"]["state"], json!("replayed"));
    assert_eq!(done["failure"]["closed_by"], json!("user 1"));
    let refused = api.post(&path, &json!({"supersede": true})).await;
    refused.assert_error(StatusCode::CONFLICT);
    assert!(refused.json()["message"].as_str().unwrap().contains("was replayed at"));
}

#[tokio::test]
async fn an_edited_event_is_taken_to_the_byte() {
    let api = Api::start().await;
    let session_id = fresh_id();
    let mut event = ended(session_id);
    event["started_at"] = json!("yesterday");
    let path = format!("{}replay/", api.fail(&event.to_string()).await);
    for (body, field) in [
        (json!({"with": "text"}), "with"),
        (json!({"dry_run": 1}), "dry_run"),
        (json!({"without": {}}), "without"),
        (json!([]), "body"),
    ] {
        let answer = api.post(&path, &body).await;
        answer.assert_error(StatusCode::BAD_REQUEST);
        assert_eq!(answer.json()["errors"][0]["field"], json!(field), "{body}");
    }
    let good = ended(session_id);
    let done = api.post(&path, &json!({"with": &good})).await.json()["data"].take();
    assert_eq!(done["outcome"], json!("finalized"), "{done}");
    assert_eq!(done["failure"]["is_edited"], json!(true));
    // The same event, sent as it was edited, is the same.
    assert_eq!(api.take(&[good]).await[0]["status"], json!("duplicate"));
}

#[tokio::test]
async fn a_discarded_failure_is_said_to_be_so() {
    let api = Api::start().await;
    let path = api.fail("{").await;
    let discarded = api.post(&format!("{path}discard/"), &json!({})).await;
    assert_eq!(discarded.json()["data"]["state"], json!("discarded"));
    for action in ["discard/", "replay/"] {
        let refused = api.post(&format!("{path}{action}"), &json!({})).await;
        refused.assert_error(StatusCode::CONFLICT);
        assert!(refused.json()["message"].as_str().unwrap().contains("was discarded at"));
    }
    api.fail("{").await;
    assert_eq!(api.data(&path).await["state"], json!("open"), "it came again");
}

#[tokio::test]
async fn a_job_is_ordered_watched_and_done() {
    let api = Api::start().await;
    let sessions: Vec<Uuid> = (0..3).map(|_| fresh_id()).collect();
    for session_id in &sessions {
        api.conflict(*session_id).await;
    }
    api.fail("{").await;
    for body in
        [json!({"code": "bad"}), json!({"per_second": 0}), json!({"since": 7}), json!({"x": 1})]
    {
        let answer = api.post("/api/failures/replays/", &body).await;
        answer.assert_error(StatusCode::BAD_REQUEST);
    }
    let order = json!({"code": "conflicting_event", "supersede": true, "per_second": 1000});
    let ordered = api.post("/api/failures/replays/", &order).await;
    assert_eq!(ordered.status, StatusCode::CREATED);
    let ordered = ordered.json()["data"].take();
    assert_eq!((&ordered["matched"], &ordered["status"]), (&json!(3), &json!("running")));
    let path = format!("/api/failures/replays/{}/", ordered["id"].as_str().unwrap());
    until("the job is done", async || api.data(&path).await["status"] == json!("done")).await;
    let job = api.data(&path).await;
    assert_eq!((&job["finalized"], &job["failed"]), (&json!(3), &json!(0)), "{job}");
    assert_eq!(api.data("/api/failures/replays/").await, json!([job]));
    for session_id in sessions {
        let session = api.test.store.session(session_id).await.unwrap().unwrap();
        assert_eq!(session.revision, 2);
    }
}
