//! `finalizer failures`, as operators use it; and very many failures, replayed by a command and by a
//! server that are both killed in the middle.

use std::process::{Child, Output, Stdio};

use finalizer::event::FailureCode;
use finalizer::store::{FailureFilter, FailureState};
use http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::service::Site;
use crate::harness::{
    TestStore, ended, endpoint, fresh_id, number, on_both_stores, started, until,
};

on_both_stores![
    an_operator_finds_mends_and_replays_a_failure,
    what_cannot_be_replayed_or_discarded_is_said_and_ends_with_one,
    wrong_usage_ends_with_two,
    a_dry_run_prints_what_would_become_of_each,
    very_many_failures_are_replayed_through_the_death_of_who_replays_them,
];

/// How many failures the last test has; more can be asked for.
const FAILURES: usize = 500;
const COUNT: &str = "FINALIZER_TEST_FAILURES";

#[track_caller]
fn data(output: &Output, status: i32) -> Value {
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "out: {out}\nerr: {err}");
    serde_json::from_str::<Value>(&out).unwrap_or_else(|_| panic!("{out}"))["data"].take()
}

impl Site {
    /// Ingests events; the failures that came of it, in no order.
    async fn ingest(&self, lines: &[String]) -> Vec<String> {
        std::fs::write(self.folder().join("events.ndjson"), lines.join("\n")).unwrap();
        self.run(&["ingest", "events.ndjson", "--json"]);
        let failures = self.failures().await;
        failures.iter().map(|failure| failure.failure_id.to_string()).collect()
    }

    fn ask(&self, arguments: &[&str], status: i32) -> Value {
        data(&self.run(&[arguments, &["--json"]].concat()), status)
    }

    async fn in_state(&self, code: FailureCode, state: FailureState) -> Vec<Uuid> {
        let (code, state) = (Some(code), Some(state));
        let filter = FailureFilter { code, state, limit: 100_000, ..FailureFilter::default() };
        let failures = self.test.store.failures(&filter).await.unwrap();
        failures.into_iter().map(|failure| failure.rejection.session_id.unwrap()).collect()
    }

    fn replay_in_background(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(&[&["failures", "replay"], arguments].concat());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

async fn an_operator_finds_mends_and_replays_a_failure(test: TestStore) {
    let site = Site::embedded(test).await;
    let session_id = fresh_id();
    let mut wrong = ended(session_id);
    wrong["started_at"] = json!("yesterday");
    let ids = site.ingest(&[wrong.to_string(), "{".to_owned()]).await;
    let since = ["failures", "list", "--since", "2026-01-01T00:00:00Z"];
    assert_eq!(site.ask(&since, 0).as_array().unwrap().len(), ids.len());
    let session = session_id.to_string();
    let list = ["failures", "list", "--session", &session, "--character", "support-bot"];
    let found = site.ask(&[&list[..], &["--state", "open"]].concat(), 0);
    let [failure] = &found.as_array().unwrap()[..] else { panic!("{found}") };
    assert_eq!(failure["tenant_id"], json!("acme"));
    let id = failure["id"].as_str().unwrap();

    let raw = site.run(&["failures", "show", id, "--raw"]).stdout;
    assert_eq!(raw, wrong.to_string().as_bytes());
    let shown = site.ask(&["failures", "show", id], 0);
    assert_eq!(shown["event"]["started_at"], json!("yesterday"));
    std::fs::write(site.folder().join("mended.json"), ended(session_id).to_string()).unwrap();
    let with = ["failures", "replay", id, "--with", "mended.json"];
    let tried = site.ask(&[&with[..], &["--dry-run"]].concat(), 0);
    assert_eq!((&tried["finalized"], &tried["dry_run"]), (&json!(1), &json!(true)));
    assert_eq!(site.finalized(&[session_id]).await, 0);
    let done = site.ask(&with, 0);
    assert_eq!(done["failures"][0]["outcome"], json!("finalized"), "{done}");
    assert_eq!(site.finalized(&[session_id]).await, 1);
    let shown = site.ask(&["failures", "show", id], 0);
    assert_eq!((&shown["state"], &shown["is_edited"]), (&json!("replayed"), &json!(true)));
    assert_eq!(shown["closed_by"], json!("command line"));
    assert_eq!(site.run(&["failures", "show", id, "--raw"]).stdout, raw, "the original is kept");
    assert_eq!(site.ask(&["failures", "list", "--state", "open"], 0).as_array().unwrap().len(), 1);
}

async fn what_cannot_be_replayed_or_discarded_is_said_and_ends_with_one(test: TestStore) {
    let site = Site::embedded(test).await;
    let ids = site.ingest(&["{".to_owned()]).await;
    let id = ids[0].as_str();
    let replayed = site.ask(&["failures", "replay", id], 1);
    assert_eq!((&replayed["failed"], &replayed["skipped"]), (&json!(1), &json!(0)));
    assert_eq!(site.ask(&["failures", "discard", id], 0), json!([id]));
    let nobody = fresh_id().to_string();
    let again = site.ask(&["failures", "replay", id, &nobody], 1);
    assert_eq!(again["skipped"], json!(2));
    let told = ["0", "1"].map(|index| again.pointer(&format!("/failures/{index}/message")));
    let told = told.map(|message| message.unwrap().as_str().unwrap());
    assert!(told[0].contains("was discarded at") && told[1].contains("no such failure"));
    assert_eq!(again["failures"][0]["code"], json!("already_discarded"));
    assert_eq!(site.ask(&["failures", "discard", id, &nobody], 1), json!([]));
    assert_eq!(site.failures().await[0].replays, 1, "nothing has happened");
}

async fn wrong_usage_ends_with_two(test: TestStore) {
    let site = Site::embedded(test).await;
    let id = fresh_id().to_string();
    for arguments in [
        &["replay"][..],
        &["replay", &id, "--all"],
        &["replay", "--all", "--with", "event.json"],
        &["replay", &id, "--with", "not-there.json"],
        &["replay", "--code", "bad_luck"],
        &["replay", "--since", "now"],
        &["replay", "--all", "--per-second", "0"],
        &["discard"],
        &["list", "--state", "new"],
    ] {
        let run = site.run(&[&["failures"], arguments].concat());
        let told = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(2), "{arguments:?}: {told}");
        assert_eq!(told.trim().lines().count(), 1, "{told}");
    }
    let none = ["failures", "replay", "--all", "--database-url", "sqlite://nothing.db"];
    assert_eq!(site.run(&none).status.code(), Some(3));
}

async fn a_dry_run_prints_what_would_become_of_each(test: TestStore) {
    let site = Site::embedded(test).await;
    let session_id = fresh_id();
    let mut other = ended(session_id);
    other["close_reason"] = json!("user_hung_up");
    // Of two that come together either may be first.
    site.ingest(&[ended(session_id).to_string()]).await;
    site.ingest(&[other.to_string(), "{".to_owned()]).await;
    let before = site.failures().await;
    let run = site.run(&["failures", "replay", "--all", "--dry-run"]);
    let out = String::from_utf8(run.stdout).unwrap();
    assert_eq!(run.status.code(), Some(1), "{out}");
    assert!(out.contains("malformed_json") && out.contains("conflicting_event"), "{out}");
    assert!(out.contains(r#"close_reason: stored "", event "user_hung_up""#), "{out}");
    assert_eq!(site.failures().await, before);
    let superseded =
        site.ask(&["failures", "replay", "--code", "conflicting_event", "--supersede"], 0);
    assert_eq!(superseded["finalized"], json!(1));
}

/// The five ways to fail, each as often: their lines, and the sessions of those that are too large.
fn five_codes(of_each: usize) -> (Vec<String>, Vec<Uuid>) {
    let (mut lines, mut large) = (Vec::new(), Vec::new());
    for _ in 0..of_each {
        let [broken, unknown, invalid, known, long] = std::array::from_fn(|_| fresh_id());
        lines.push(format!(r#"{{"session_id": "{broken}", "type": "session.ended", nothing"#));
        lines.push(json!({"type": "session.paused", "session_id": unknown}).to_string());
        let mut event = started(invalid);
        event["tenant_id"] = json!(7);
        lines.push(event.to_string());
        let mut event = ended(known);
        lines.push(event.to_string());
        event["close_reason"] = json!("user_hung_up");
        lines.push(event.to_string());
        let mut event = ended(long);
        event["metadata"] = json!({"note": "x".repeat(3000)});
        lines.push(event.to_string());
        large.push(long);
    }
    (lines, large)
}

async fn very_many_failures_are_replayed_through_the_death_of_who_replays_them(test: TestStore) {
    let of_each = number(COUNT, FAILURES) / 5;
    let pace = (of_each / 4).clamp(20, 400).to_string();
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let site = Site::embedded(test).await.with("FINALIZER_ROLES", "api");
    let site = site.with("FINALIZER_MAX_EVENT_BYTES", "2KiB");
    let (lines, sessions) = five_codes(of_each);
    site.ingest(&lines).await;
    let site = site.with("FINALIZER_MAX_EVENT_BYTES", "4MiB");
    let open = async || site.in_state(FailureCode::TooLarge, FailureState::Open).await;
    let replayed = async || site.in_state(FailureCode::TooLarge, FailureState::Replayed).await;
    assert_eq!(open().await.len(), of_each);

    let tried = site.ask(&["failures", "replay", "--all", "--dry-run", "--per-second", "5000"], 1);
    told(&format!("dry run: {} would be finalized, {} fail", tried["finalized"], tried["failed"]));
    assert_eq!((&tried["finalized"], &tried["failed"]), (&json!(of_each), &json!(4 * of_each)));
    assert_eq!((open().await.len(), replayed().await.len()), (of_each, 0));

    let mut command =
        site.replay_in_background(&["--code", "too_large", "--per-second", pace.as_str()]);
    until("a third is replayed", async || replayed().await.len() >= of_each / 3).await;
    command.kill().unwrap();
    command.wait().unwrap();
    let first = assert_effects(&site, &sessions).await;
    told(&format!("the command was killed when {first} of {of_each} were replayed"));
    assert!(first < of_each, "it was killed in the middle");

    let server = site.start().await;
    let order = json!({"code": "too_large", "per_second": pace.parse::<u32>().unwrap()});
    let (status, job) = server.caller().order_replay(&order).await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
    until("two thirds are replayed", async || replayed().await.len() >= of_each * 2 / 3).await;
    server.kill();
    let second = assert_effects(&site, &sessions).await;
    told(&format!("the server was killed when {second} of {of_each} were replayed"));
    assert!(second < of_each, "it was killed in the middle");

    let server = site.start().await;
    let path = format!("/api/failures/replays/{}/", job["id"].as_str().unwrap());
    let mut ended = Value::Null;
    until("the job is done", async || {
        ended = server.caller().get(&path).await.1["data"].take();
        ended["status"] == json!("done")
    })
    .await;
    told(&format!(
        "another server went on: {} finalized, {} skipped",
        ended["finalized"], ended["skipped"]
    ));
    assert_eq!(ended["matched"], json!(of_each - first));
    let left = open().await.len();
    assert!(left <= 2, "at most one attempt of each that was killed: {left}");
    // What a process died over is for somebody to name.
    finish_by_name(&site, left);
    assert_eq!(assert_effects(&site, &sessions).await, of_each);
    server.stop().await;

    let rest = site.ask(&["failures", "replay", "--all", "--per-second", "5000"], 1);
    assert_eq!((&rest["finalized"], &rest["failed"]), (&json!(0), &json!(4 * of_each)));
    told(&format!(
        "at the end all {of_each} are finalized, and the other {} fail as before",
        rest["failed"]
    ));
}

/// Shown with `--nocapture`.
#[expect(clippy::print_stdout, reason = "the figures of a large run are wanted")]
fn told(line: &str) {
    println!("{line}");
}

/// Replays those by their ids that nothing else tries again.
fn finish_by_name(site: &Site, left: usize) {
    let list = ["failures", "list", "--code", "too_large", "--state", "open"];
    let list = site.ask(&list, 0);
    let ids: Vec<&str> =
        list.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), left);
    if !ids.is_empty() {
        let skipped = site.ask(&["failures", "replay", "--code", "too_large"], 1);
        assert_eq!((&skipped["skipped"], &skipped["finalized"]), (&json!(left), &json!(0)));
        let named = site.ask(&[&["failures", "replay"], &ids[..]].concat(), 0);
        assert_eq!(named["finalized"], json!(left));
        told(&format!("{left} had been under way at a death, and were replayed by their ids"));
    }
}

/// Whoever died when: a failure is replayed if and only if its session is finalized, once, and told
/// of once. How many are.
async fn assert_effects(site: &Site, sessions: &[Uuid]) -> usize {
    let replayed = site.in_state(FailureCode::TooLarge, FailureState::Replayed).await;
    for session_id in sessions {
        let session = site.test.store.session(*session_id).await.unwrap();
        let owed = site.test.store.deliveries_of(*session_id).await.unwrap().len();
        let expected = if replayed.contains(session_id) { (Some(1), 1) } else { (None, 0) };
        assert_eq!((session.map(|session| session.revision), owed), expected);
    }
    replayed.len()
}
