//! Another price book for sessions that are finalized already, on both databases and beside workers.

use std::process::{Command, Stdio};

use finalizer::event::FailureCode;
use finalizer::finalize::{Bill, Outcome, PriceBook, RecordingStatus, Repriced, Session};
use finalizer::store::{Bills, Cursor, HistoryFilter};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    TestDesk, TestStore, after, ended, endpoint, fresh_id, noon, on_both_stores, recording,
    started, until,
};

on_both_stores![
    another_price_changes_the_cost_and_nothing_else,
    a_bill_that_was_overtaken_changes_nothing,
    a_worker_that_comes_after_keeps_the_new_cost,
    bills_come_once_each_and_only_of_what_was_finalized_since,
    several_processes_with_one_book_change_each_session_once,
    workers_and_reprices_beside_each_other_keep_what_both_did,
];

/// What costs 0.000643 by the built-in book: 1,840 tokens in and 612 out.
fn book(input: &str) -> String {
    format!(
        "[[price]]\nkind = \"llm\"\nprovider = \"openai\"\nmodel = \"gpt-4o-mini\"\n\
         unit = \"1M tokens\"\ninput = \"{input}\"\noutput = \"0\"\n"
    )
}

fn repriced(bill: Bill, input: &str) -> Repriced {
    let repriced = bill.reprice(&PriceBook::parse(&book(input)).unwrap()).unwrap();
    assert!(repriced.is_changed());
    repriced
}

async fn read(test: &TestStore, session_id: Uuid) -> Session {
    test.store.session(session_id).await.unwrap().unwrap()
}

async fn bill(test: &TestStore, session_id: Uuid) -> Bill {
    Bill::of(read(test, session_id).await).unwrap()
}

/// Walks past the only session. On PostgreSQL it waits for every transaction that is older.
async fn walk_to_the_end(test: &TestStore) -> Cursor {
    let (filter, mut cursor) = (HistoryFilter::default(), Cursor::default());
    until("the walk has found it", async || {
        let walked = test.store.finalized_after(&filter, cursor, 9).await.unwrap();
        cursor = walked.cursor;
        !walked.sessions.is_empty()
    })
    .await;
    cursor
}

/// A call that was recorded.
fn recorded(session_id: Uuid) -> Value {
    let mut event = ended(session_id);
    event["recording"] = json!({"expected": true});
    event
}

async fn another_price_changes_the_cost_and_nothing_else(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let session_id = fresh_id();
    test.take(&[recorded(session_id)]).await;
    let before = read(&test, session_id).await;
    let told = test.store.deliveries_of(session_id).await.unwrap();
    let cursor = walk_to_the_end(&test).await;

    let change = repriced(bill(&test, session_id).await, "1000");
    let changes = std::slice::from_ref(&change);
    assert_eq!(test.store.reprice(changes).await.unwrap(), [session_id]);
    let expected = Session {
        cost_micros: 1_840_000,
        cost_breakdown: change.bill.cost.breakdown.clone(),
        version: before.version + 1,
        ..before.clone()
    };
    assert_ne!(expected.cost_breakdown, before.cost_breakdown);
    assert_eq!(read(&test, session_id).await, expected);
    // Again, because the answer was lost: nothing is left to be done.
    assert!(test.store.reprice(changes).await.unwrap().is_empty());
    assert_eq!(read(&test, session_id).await, expected);

    assert_eq!(test.store.deliveries_of(session_id).await.unwrap(), told, "nobody is told");
    let totals = test.store.history_totals(&HistoryFilter::default()).await.unwrap();
    assert_eq!(totals.cost_micros, 1_840_000);
    assert_eq!(
        test.take(&[recorded(session_id)]).await.outcomes,
        [Outcome::Duplicate(Some(session_id))]
    );
    let mut other = recorded(session_id);
    other["messages"][0]["text"] = json!("Something else.");
    let outcomes = test.take(&[other]).await.outcomes;
    let Outcome::Failed { rejection, .. } = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(rejection.code, FailureCode::ConflictingEvent);
    let walked = test.store.finalized_after(&HistoryFilter::default(), cursor, 9).await.unwrap();
    assert!(walked.sessions.is_empty(), "it is no other revision");
}

async fn a_bill_that_was_overtaken_changes_nothing(test: TestStore) {
    let session_id = fresh_id();
    test.take(&[recorded(session_id)]).await;
    let stale = repriced(bill(&test, session_id).await, "1");
    test.take(&[recording(session_id, "EG_1", "EGRESS_COMPLETE")]).await;
    let ready = read(&test, session_id).await;
    assert_eq!(ready.recording.status, RecordingStatus::Ready);

    let nobody =
        Repriced { bill: Bill { session_id: fresh_id(), ..stale.bill.clone() }, ..stale.clone() };
    assert!(test.store.reprice(&[stale, nobody]).await.unwrap().is_empty());
    assert_eq!(read(&test, session_id).await, ready);
    let change = repriced(bill(&test, session_id).await, "1");
    assert_eq!(test.store.reprice(&[change]).await.unwrap(), [session_id]);
    let both = read(&test, session_id).await;
    assert_eq!((both.cost_micros, both.recording), (1840, ready.recording));
}

async fn a_worker_that_comes_after_keeps_the_new_cost(test: TestStore) {
    let session_id = fresh_id();
    test.take(&[recorded(session_id)]).await;
    let change = repriced(bill(&test, session_id).await, "1");
    test.store.reprice(&[change]).await.unwrap();
    test.take(&[recording(session_id, "EG_1", "EGRESS_COMPLETE")]).await;
    let both = read(&test, session_id).await;
    assert_eq!((both.cost_micros, both.recording.status), (1840, RecordingStatus::Ready));
}

async fn bills_come_once_each_and_only_of_what_was_finalized_since(test: TestStore) {
    let mut sessions: Vec<Uuid> = (0..5).map(|_| fresh_id()).collect();
    // The first and the last id that there can be.
    sessions.extend([Uuid::nil(), Uuid::max()]);
    let early = fresh_id();
    let desk = TestDesk::closed();
    test.take_with(&desk, noon(), &[ended(early), started(fresh_id())]).await;
    for session_id in &sessions {
        test.take_with(&desk, after(1), &[ended(*session_id)]).await;
    }
    sessions.sort();
    let (mut found, mut looked_at, mut next) = (Vec::new(), 0, Some(Uuid::nil()));
    while let Some(from) = next {
        let page: Bills = test.store.bills(after(1), from, 2).await.unwrap();
        assert!(page.bills.len() as u64 <= page.looked_at && page.looked_at <= 2);
        looked_at += page.looked_at;
        found.extend(page.bills);
        next = page.next;
    }
    assert_eq!(looked_at, 9);
    assert_eq!(found.iter().map(|bill| bill.session_id).collect::<Vec<_>>(), sessions);
    assert_eq!(found[3], bill(&test, sessions[3]).await);
    let everything = test.store.bills(noon(), Uuid::nil(), 100).await.unwrap();
    assert_eq!((everything.bills.len(), everything.looked_at, everything.next), (8, 9, None));
}

/// Runs the program beside the test; what it says it did.
async fn run_reprice(test: &TestStore, prices: &std::path::Path) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_finalizer"));
    command
        .args(["sessions", "reprice", "--since", "2026-01-01T00:00:00Z", "--json"])
        .args(["--database-url", &test.url, "--prices"])
        .arg(prices)
        .env_clear()
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["data"].take()
}

async fn several_processes_with_one_book_change_each_session_once(test: TestStore) {
    let folder = tempfile::tempdir().unwrap();
    let prices = folder.path().join("prices.toml");
    std::fs::write(&prices, book("1")).unwrap();
    let sessions: Vec<Uuid> = (0..300).map(|_| fresh_id()).collect();
    test.take(&sessions.iter().copied().map(ended).collect::<Vec<_>>()).await;
    let version = read(&test, sessions[0]).await.version;

    let (one, two) = tokio::join!(run_reprice(&test, &prices), run_reprice(&test, &prices));
    let changed = |data: &Value| data["sessions"].as_array().unwrap().len();
    assert_eq!(changed(&one) + changed(&two), 300);
    for session_id in sessions {
        let session = read(&test, session_id).await;
        assert_eq!((session.cost_micros, session.version), (1840, version + 1));
    }
}

async fn workers_and_reprices_beside_each_other_keep_what_both_did(test: TestStore) {
    let folder = tempfile::tempdir().unwrap();
    let [odd, even] = ["odd", "even"].map(|name| folder.path().join(name));
    std::fs::write(&odd, book("1")).unwrap();
    std::fs::write(&even, book("2")).unwrap();
    let sessions: Vec<Uuid> = (0..40).map(|_| fresh_id()).collect();
    test.take(&sessions.iter().copied().map(recorded).collect::<Vec<_>>()).await;

    let worker = async {
        for status in ["EGRESS_STARTING", "EGRESS_ENDING", "EGRESS_COMPLETE"] {
            for session_id in &sessions {
                let egress_id = format!("EG_{session_id}");
                test.take(&[recording(*session_id, &egress_id, status)]).await;
            }
        }
    };
    let repricer = async {
        let mut changed = 0;
        for prices in [&odd, &even, &odd, &even, &odd, &even] {
            changed += run_reprice(&test, prices).await["changed"].as_u64().unwrap();
        }
        changed
    };
    let ((), changed) = tokio::join!(worker, repricer);
    assert_eq!(changed, 6 * 40);
    for session_id in sessions {
        let session = read(&test, session_id).await;
        assert_eq!((session.cost_micros, session.revision), (3680, 1));
        assert_eq!(session.recording.status, RecordingStatus::Ready);
    }
}
