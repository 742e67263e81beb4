//! What customers' own code does with the API, as `examples/reading` has it, run by Node.

use std::path::PathBuf;

use http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::add_key;
use crate::harness::programs::program;
use crate::harness::service::{Process, Site};
use crate::harness::{after, bytes_of, ended, fresh_id, nanoseconds, recorded, sqlite, started};

const READ: &str = "examples/reading/read.mjs";
const PLAYER: &str = "tests/reading/player.mjs";

/// A site, and a customer who owns sessions at it.
struct Customer {
    site: Site,
    process: Process,
    key: String,
}

/// What a script came to.
struct Printed {
    is_done: bool,
    out: String,
    err: String,
}

impl Customer {
    async fn start() -> Self {
        let site = Site::embedded(sqlite().await).await;
        let key = add_key(&site.test, 7, 7, false).await;
        let process = site.start().await;
        Self { site, process, key }
    }

    fn run(&self, script: &str, arguments: &[&str]) -> Printed {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut node = program("node");
        node.env("FINALIZER_API_URL", self.process.url().unwrap())
            .env("FINALIZER_API_KEY", &self.key);
        let output = node.arg(root.join(script)).args(arguments).output().unwrap();
        Printed {
            is_done: output.status.success(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// A session whose recording began so many seconds after it.
    async fn session_recorded_from(&self, seconds: i64) -> Uuid {
        let session_id = fresh_id();
        let mut stored = recorded(session_id, "", "call.mp4");
        stored["egress"]["fileResults"][0]["startedAt"] = json!(nanoseconds(after(seconds)));
        let events = bytes_of(&[ended(session_id), stored]);
        let (status, outcomes) = self.process.caller().send_lines(&events).await;
        assert_eq!(status, StatusCode::OK, "{outcomes}");
        session_id
    }
}

impl Printed {
    /// What it printed, having done all.
    #[track_caller]
    fn done(self) -> String {
        assert!(self.is_done && self.err.is_empty(), "{}{}", self.out, self.err);
        self.out
    }

    /// What it complained of, having printed nothing.
    #[track_caller]
    fn failed(self) -> String {
        assert!(!self.is_done && self.out.is_empty(), "{}{}", self.out, self.err);
        self.err
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transcript_is_printed_turn_by_turn() {
    let customer = Customer::start().await;
    let session_id = fresh_id();
    customer.site.test.take(&[ended(session_id)]).await;
    let printed = customer.run(READ, &["transcript", &session_id.to_string()]);
    assert_eq!(
        printed.done(),
        "1.0 s, assistant: Hi! How can I help you today?\n4.0 s, user: I want to book a demo.\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_is_highlighted_while_the_recording_plays() {
    let customer = Customer::start().await;
    std::fs::write(customer.site.recordings().join("call.mp4"), b"0123456789").unwrap();
    let late = customer.session_recorded_from(2).await;
    let printed = customer.run(PLAYER, &[&late.to_string(), "0", "1.999", "2", "170", "0.5"]);
    assert_eq!(
        serde_json::from_str::<Value>(&printed.done()).unwrap(),
        json!({"highlighted": [0, 0, 1, 1, 0], "status": 206, "bytes": "234"})
    );
    let whole = customer.session_recorded_from(0).await;
    let printed = customer.run(PLAYER, &[&whole.to_string(), "0", "1", "3.999", "4"]);
    assert_eq!(
        serde_json::from_str::<Value>(&printed.done()).unwrap()["highlighted"],
        json!([null, 0, 0, 1])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_history_of_a_character_becomes_documents_page_by_page() {
    let customer = Customer::start().await;
    let sessions: Vec<Uuid> = (0..120).map(|_| fresh_id()).collect();
    let mut events: Vec<Value> = sessions.iter().map(|session_id| ended(*session_id)).collect();
    for (event, seconds) in events.iter_mut().zip(0..) {
        event["started_at"] = json!(after(-seconds));
    }
    let mut of_another_character = ended(fresh_id());
    of_another_character["character_slug"] = json!("sales-bot");
    let mut of_another_owner = ended(fresh_id());
    of_another_owner["character_owner"] = json!(8);
    let mut in_progress = started(fresh_id());
    in_progress["started_at"] = json!(after(1));
    events.extend([of_another_character, of_another_owner, in_progress.clone()]);
    customer.site.test.take(&events).await;

    let text = "Assistant: Hi! How can I help you today?\nUser: I want to book a demo.";
    let document = |(session_id, seconds): (&Uuid, i64)| {
        json!({
            "id": session_id, "character": "support-bot",
            "began_at": after(-seconds).format("%FT%TZ").to_string(), "text": text,
            "seconds": 180 + seconds,
        })
    };
    let newest = json!({
        "id": in_progress["session_id"], "character": "support-bot",
        "began_at": after(1).format("%FT%TZ").to_string(), "text": "", "seconds": 0,
    });
    let others = sessions.iter().zip(0..).map(document);
    let expected: Vec<Value> = std::iter::once(newest).chain(others).collect();
    let printed = customer.run(READ, &["documents", "support-bot"]).done();
    let documents = printed.lines().map(|line| serde_json::from_str(line).unwrap());
    let documents: Vec<Value> = documents.collect();
    assert_eq!(documents.len(), expected.len());
    let wrong = documents.iter().zip(&expected).find(|(printed, expected)| printed != expected);
    assert_eq!(wrong, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_refuses_is_said_in_its_own_words() {
    let mut customer = Customer::start().await;
    let foreign = fresh_id().to_string();
    for (arguments, sentence) in [
        (["transcript", foreign.as_str()], "There is no such session."),
        (
            ["transcript", "sess_a1b2c3"],
            "The request is not valid. Expected a UUID of 36 characters.",
        ),
    ] {
        assert_eq!(customer.run(READ, &arguments).failed().trim(), sentence);
    }
    customer.key = format!("sk_{}", "0".repeat(64));
    let refused = customer.run(READ, &["documents"]).failed();
    assert_eq!(refused.trim(), "The API key is not valid, or not active.");
}
