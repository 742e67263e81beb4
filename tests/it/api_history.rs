//! `/api/billing/usage/`: sessions listed for their owners and for staff, and walked over.

use http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::{Api, PUBLIC_URL, add_key};
use crate::harness::{after, ended, fresh_id, started};

const USAGE: &str = "/api/billing/usage/";

impl Api {
    /// What the owner 7 gets.
    async fn usage(&self, query: &str) -> Value {
        let answer = self.get(&format!("{USAGE}{query}"), &self.owner_key).await;
        assert_eq!(answer.status, StatusCode::OK, "{query}: {:?}", answer.body);
        answer.json()["data"].clone()
    }

    /// Calls that began one after the other, a second between them.
    async fn calls(&self, count: i64) -> Vec<Uuid> {
        let mut ids = Vec::new();
        for number in 0..count {
            let (session_id, mut event) = (fresh_id(), ended(fresh_id()));
            event["session_id"] = json!(session_id);
            event["started_at"] = json!(after(number));
            self.take(&[event]).await;
            ids.push(session_id);
        }
        ids
    }
}

fn ids(data: &Value) -> Vec<Uuid> {
    let rows = data["sessions"]["data"].as_array().unwrap();
    rows.iter().map(|row| row["session_id"].as_str().unwrap().parse().unwrap()).collect()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn sorted(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_page_has_the_documented_fields_and_the_totals_of_all_pages() {
    let api = Api::start().await;
    let newest = api.calls(3).await[2];
    let data = api.usage("?page_size=1").await;
    assert_eq!(
        sorted(keys(&data)),
        [
            "sessions",
            "total_estimated_cost_usd",
            "total_llm_input_tokens",
            "total_llm_output_tokens",
            "total_sessions",
            "total_stt_audio_seconds",
            "total_tts_characters",
        ]
    );
    assert_eq!(data["total_sessions"], json!(3));
    assert_eq!(data["total_llm_input_tokens"], json!(3 * 1840));
    assert_eq!(data["total_llm_output_tokens"], json!(3 * 612));
    assert_eq!(data["total_stt_audio_seconds"], json!(0.0));
    assert_eq!(data["total_tts_characters"], json!(0));
    assert_eq!(data["total_estimated_cost_usd"], json!("0.001929"));
    let sessions = &data["sessions"];
    assert_eq!(
        sorted(keys(sessions)),
        ["data", "next", "page", "page_size", "previous", "total_pages"]
    );
    assert_eq!(
        (&sessions["page"], &sessions["page_size"], &sessions["total_pages"]),
        (&json!(1), &json!(1), &json!(3))
    );
    let row = &sessions["data"][0];
    let path = format!("/api/billing/sessions/{newest}/");
    let mut session = api.get(&path, &api.owner_key).await.json()["data"].clone();
    let fields = session.as_object_mut().unwrap();
    assert!(fields.remove("transcript").is_some());
    assert!(fields.remove("recording_presigned_url").is_some());
    assert_eq!(*row, session);
    assert!(row["transcript_text"].as_str().unwrap().starts_with("Assistant: Hi!"));
}

#[tokio::test]
async fn owners_see_their_sessions_and_staff_all() {
    let api = Api::start().await;
    let own = api.finalized_session().await;
    let mut event = ended(fresh_id());
    event["character_owner"] = json!(8);
    api.take(&[event]).await;
    api.get(USAGE, "").await.assert_error(StatusCode::UNAUTHORIZED);
    assert_eq!(ids(&api.usage("").await), [own]);
    assert_eq!(ids(&api.usage("?finalized_after=").await), [own]);
    let nobody = add_key(&api.test, 4, 9, false).await;
    for query in ["", "?finalized_after="] {
        let path = format!("{USAGE}{query}");
        assert_eq!(ids(&api.get(&path, &nobody).await.json()["data"]), [] as [Uuid; 0]);
        assert_eq!(ids(&api.get(&path, &api.staff_key).await.json()["data"]).len(), 2);
    }
    let nothing = api.get(USAGE, &nobody).await.json()["data"].clone();
    assert_eq!(nothing["total_sessions"], json!(0));
    assert_eq!(nothing["total_estimated_cost_usd"], json!("0.000000"));
    assert_eq!(nothing["sessions"]["total_pages"], json!(0));
}

#[tokio::test]
async fn the_path_works_without_its_last_slash() {
    let api = Api::start().await;
    api.finalized_session().await;
    let with = api.get(USAGE, &api.owner_key).await;
    let without = api.get(USAGE.trim_end_matches('/'), &api.owner_key).await;
    assert_eq!((without.status, without.body), (StatusCode::OK, with.body));
}

#[tokio::test]
async fn every_parameter_that_is_wrong_is_named() {
    let api = Api::start().await;
    let cases = [
        ("page=0", "page"),
        ("page=two", "page"),
        ("page=-1", "page"),
        ("page=4294967296", "page"),
        ("page_size=0", "page_size"),
        ("page_size=201", "page_size"),
        ("start=yesterday", "start"),
        ("start=2026-05-28T12:00:00", "start"),
        ("start=", "start"),
        ("start=%FF", "start"),
        ("end=2026-02-30", "end"),
        ("end=2026-05-28T12:00:00+02:00", "end"),
        ("start=2026-05-29&end=2026-05-28", "end"),
        ("tenant_id=", "tenant_id"),
        ("character_slug=%00", "character_slug"),
        ("finalized_after=142", "finalized_after"),
        ("finalized_after=&page=1", "page"),
        ("owner=7", "owner"),
    ];
    for (query, field) in cases {
        let answer = api.get(&format!("{USAGE}?{query}"), &api.owner_key).await;
        answer.assert_error(StatusCode::BAD_REQUEST);
        let errors = answer.json()["errors"].clone();
        assert_eq!(errors.as_array().unwrap().len(), 1, "{query}: {errors}");
        assert_eq!(errors[0]["field"], json!(field), "{query}: {errors}");
    }
    let both = api.get(&format!("{USAGE}?page=0&end=x"), &api.owner_key).await;
    assert_eq!(both.json()["errors"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn links_lead_through_all_pages_and_keep_what_was_asked() {
    let api = Api::start().await;
    let mut sessions = api.calls(5).await;
    let in_progress = fresh_id();
    api.take(&[started(in_progress)]).await;
    // It began with the first of the calls, and is newer.
    sessions.insert(1, in_progress);
    sessions.reverse();
    let asked = "?character_slug=support-bot&start=2026-05-28T14%3A00%3A00%2B02%3A00&page_size=2";
    let first = api.usage(asked).await;
    assert_eq!(first["sessions"]["previous"], Value::Null);
    let (mut found, mut previous, mut page) = (ids(&first), Vec::new(), first);
    while let Some(next) = page["sessions"]["next"].as_str() {
        let query = next.strip_prefix(&format!("{PUBLIC_URL}{USAGE}")).unwrap().to_owned();
        assert!(query.contains("start=2026-05-28T14%3A00%3A00%2B02%3A00"), "{query}");
        assert!(query.contains("page_size=2") && query.contains("character_slug=support-bot"));
        page = api.usage(&query).await;
        found.extend(ids(&page));
        let back = page["sessions"]["previous"].as_str().unwrap();
        previous.push(back.rsplit("page=").next().unwrap().to_owned());
    }
    assert_eq!(found, sessions);
    assert_eq!(previous, ["1", "2"]);
    let beyond = api.usage("?page_size=2&page=9").await;
    assert_eq!((ids(&beyond).len(), &beyond["total_sessions"]), (0, &json!(6)));
    assert_eq!(beyond["sessions"]["next"], Value::Null);
    assert_eq!(
        beyond["sessions"]["previous"],
        json!(format!("{PUBLIC_URL}{USAGE}?page_size=2&page=3"))
    );
}

#[tokio::test]
async fn start_and_end_belong_to_what_they_enclose() {
    let api = Api::start().await;
    let sessions = api.calls(4).await;
    let mut between = ended(fresh_id());
    between["started_at"] = json!("2026-05-28T12:00:02.750Z");
    api.take(&[between]).await;
    let count = async |query: &str| api.usage(query).await["total_sessions"].clone();
    assert_eq!(count("?start=2026-05-28T12:00:01Z&end=2026-05-28T12:00:02Z").await, json!(3));
    assert_eq!(count("?start=2026-05-28T12:00:03Z").await, json!(1));
    assert_eq!(count("?end=2026-05-28T14:00:00%2B02:00").await, json!(1));
    assert_eq!(count("?start=2026-05-28&end=2026-05-28").await, json!(5));
    assert_eq!(count("?end=2026-05-27").await, json!(0));
    assert_eq!(count("?start=2026-05-29").await, json!(0));
    let one = api.usage("?start=2026-05-28T12:00:03Z&tenant_id=acme").await;
    assert_eq!(ids(&one), [sessions[3]]);
}

#[tokio::test]
async fn a_walk_gives_every_finalized_session_and_then_what_is_new() {
    let api = Api::start().await;
    let sessions = api.calls(5).await;
    api.take(&[started(fresh_id())]).await;
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let data = api.usage(&format!("?page_size=2&finalized_after={cursor}")).await;
        assert_eq!(data["total_sessions"], Value::Null);
        assert_eq!(data["total_estimated_cost_usd"], Value::Null);
        let part = &data["sessions"];
        assert_eq!(
            sorted(keys(part)),
            ["data", "next", "next_cursor", "page", "page_size", "previous", "total_pages"]
        );
        assert_eq!((&part["page"], &part["previous"]), (&Value::Null, &Value::Null));
        found.extend(ids(&data));
        part["next_cursor"].as_str().unwrap().clone_into(&mut cursor);
        let Some(next) = part["next"].as_str() else { break };
        let expected = format!("{PUBLIC_URL}{USAGE}?page_size=2&finalized_after={cursor}");
        assert_eq!(next, expected);
    }
    assert_eq!(found, sessions, "the first to be finalized comes first");
    let at_the_end = format!("?finalized_after={cursor}");
    let nothing = api.usage(&at_the_end).await;
    assert_eq!((ids(&nothing).len(), &nothing["sessions"]["next_cursor"]), (0, &json!(cursor)));
    let new = api.finalized_session().await;
    assert_eq!(ids(&api.usage(&at_the_end).await), [new]);
}
