//! Sessions as they are listed, on both databases: the newest first, and in the order in which they
//! became readable.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use finalizer::finalize::Totals;
use finalizer::store::{Cursor, HistoryFilter, OpenMode, Walked, migrate, open};
use finalizer::webhook::{MessageId, MessageKey};
use serde_json::{Value, json};
use sqlx::Connection as _;
use uuid::Uuid;

use crate::harness::{
    TestStore, after, ended, fresh_id, noon, on_both_stores, postgres, recording, started, until,
};

on_both_stores![
    the_newest_session_comes_first_and_pages_neither_overlap_nor_leave_gaps,
    a_history_has_what_it_is_asked_for_and_its_totals,
    a_walk_has_every_finalized_session_once_in_order,
    a_session_with_another_revision_comes_again,
    a_walk_misses_nothing_that_is_finalized_meanwhile,
];

/// A call of so many seconds after noon.
fn call_at(session_id: Uuid, seconds: i64) -> Value {
    let mut event = ended(session_id);
    event["started_at"] = json!(after(seconds));
    event["ended_at"] = json!(after(seconds + 60));
    for turn in event["messages"].as_array_mut().unwrap() {
        turn["started_at"] = json!(after(seconds + 1));
    }
    event
}

async fn listed(test: &TestStore, filter: &HistoryFilter, limit: u32, offset: u64) -> Vec<Uuid> {
    let sessions = test.store.history(filter, limit, offset).await.unwrap();
    sessions.iter().map(|session| session.session_id).collect()
}

async fn walk(test: &TestStore, cursor: Cursor, limit: u32) -> Walked {
    test.store.finalized_after(&HistoryFilter::default(), cursor, limit).await.unwrap()
}

fn ids(walked: &Walked) -> Vec<Uuid> {
    walked.sessions.iter().map(|session| session.session_id).collect()
}

/// Walks on until so many sessions have come. On PostgreSQL each waits for every transaction that
/// is older, those of other tests too.
async fn walk_until(test: &TestStore, mut cursor: Cursor, count: usize) -> (Vec<Uuid>, Cursor) {
    let mut found = Vec::new();
    until("the walk has found them", async || {
        let walked = walk(test, cursor, 2).await;
        found.extend(ids(&walked));
        cursor = walked.cursor;
        found.len() >= count
    })
    .await;
    assert_eq!(found.len(), count);
    (found, cursor)
}

/// Runs a statement behind the store's back.
async fn meddle(test: &TestStore, statement: &'static str, session_id: Uuid) {
    if test.url.starts_with("postgres") {
        let mut connection = sqlx::PgConnection::connect(&test.url).await.unwrap();
        sqlx::query(statement).bind(session_id).execute(&mut connection).await.unwrap();
    } else {
        let mut connection = sqlx::SqliteConnection::connect(&test.url).await.unwrap();
        sqlx::query(statement).bind(session_id).execute(&mut connection).await.unwrap();
    }
}

async fn the_newest_session_comes_first_and_pages_neither_overlap_nor_leave_gaps(test: TestStore) {
    let sessions: Vec<Uuid> = (0..7).map(|_| fresh_id()).collect();
    // Three began at the same moment: the last to be known is the newest.
    for (session_id, seconds) in sessions.iter().zip([10, 30, 20, 20, 20, 0, 40]) {
        test.take(&[call_at(*session_id, seconds)]).await;
    }
    let expected = [6, 1, 4, 3, 2, 0, 5].map(|index: usize| sessions[index]);
    let everything = HistoryFilter::default();
    assert_eq!(listed(&test, &everything, 100, 0).await, expected);
    let of_owner = HistoryFilter { owner: Some(7), ..HistoryFilter::default() };
    for filter in [everything, of_owner] {
        let mut pages = Vec::new();
        for offset in [0, 3, 6, 9] {
            pages.extend(listed(&test, &filter, 3, offset).await);
        }
        assert_eq!(pages, expected);
    }
}

async fn a_history_has_what_it_is_asked_for_and_its_totals(test: TestStore) {
    let [plain, tenant, character, other, early, in_progress] = std::array::from_fn(|_| fresh_id());
    let with = |session_id, name: &str, value: Value| {
        let mut event = call_at(session_id, 100);
        event[name] = value;
        event
    };
    let mut spoken = call_at(plain, 100);
    spoken["usage"] = json!([
        {"type": "llm", "provider": "openai", "model": "gpt-4o-mini", "input_tokens": 1, "output_tokens": 2},
        {"type": "stt", "provider": "openai", "model": "whisper-1", "audio_seconds": 1.5},
        {"type": "tts", "provider": "openai", "model": "tts-1", "characters": 100},
    ]);
    let mut late = started(in_progress);
    late["started_at"] = json!(after(100));
    test.take(&[
        spoken,
        with(tenant, "tenant_id", json!("other")),
        with(character, "character_slug", json!("other")),
        with(other, "character_owner", json!(8)),
        call_at(early, 99),
        late,
    ])
    .await;
    let all = HistoryFilter { owner: Some(7), ..HistoryFilter::default() };
    let all = || all.clone();
    let from = || HistoryFilter { start: Some(after(100)), ..all() };
    let cases = [
        (HistoryFilter::default(), vec![plain, tenant, character, other, early, in_progress]),
        (all(), vec![plain, tenant, character, early, in_progress]),
        (HistoryFilter { tenant_id: Some("other".to_owned()), ..all() }, vec![tenant]),
        (HistoryFilter { character_slug: Some("other".to_owned()), ..all() }, vec![character]),
        (from(), vec![plain, tenant, character, in_progress]),
        (HistoryFilter { end: Some(after(99)), ..all() }, vec![early]),
        (HistoryFilter { owner: Some(9), ..all() }, vec![]),
    ];
    for (filter, expected) in cases {
        let found: HashSet<Uuid> = listed(&test, &filter, 100, 0).await.into_iter().collect();
        assert_eq!(found, expected.iter().copied().collect(), "{filter:?}");
        let mut totals = Totals::default();
        for session_id in expected {
            let session = test.store.session(session_id).await.unwrap().unwrap();
            totals.sessions += 1;
            totals.llm_input_tokens += session.llm_input_tokens;
            totals.llm_output_tokens += session.llm_output_tokens;
            totals.stt_audio_ms += session.stt_audio_ms;
            totals.tts_characters += session.tts_characters;
            totals.cost_micros += session.cost_micros;
        }
        assert_eq!(test.store.history_totals(&filter).await.unwrap(), totals, "{filter:?}");
    }
    let totals = test.store.history_totals(&all()).await.unwrap();
    assert_eq!((totals.stt_audio_ms, totals.tts_characters), (1500, 100));
    assert!(totals.cost_micros > 0 && totals.llm_input_tokens > 1840);
}

async fn a_walk_has_every_finalized_session_once_in_order(test: TestStore) {
    let sessions: Vec<Uuid> = (0..5).map(|_| fresh_id()).collect();
    test.take(&sessions.iter().copied().map(started).collect::<Vec<_>>()).await;
    let finalized = [3, 0, 4, 1].map(|index: usize| sessions[index]);
    for session_id in finalized {
        test.take(&[ended(session_id)]).await;
    }
    let (found, end) = walk_until(&test, Cursor::default(), 4).await;
    assert_eq!(found, finalized, "in the order of finalization, and only what is finalized");
    // A recording is a change, and no revision.
    test.take(&[recording(finalized[0], "EG_1", "EGRESS_COMPLETE")]).await;
    test.take(&[ended(sessions[2])]).await;
    let (found, _) = walk_until(&test, end, 1).await;
    assert_eq!(found, [sessions[2]]);
    let of = async |owner, character: &str| {
        let character_slug = Some(character.to_owned());
        let filter = HistoryFilter { owner: Some(owner), character_slug, ..Default::default() };
        ids(&test.store.finalized_after(&filter, Cursor::default(), 9).await.unwrap()).len()
    };
    assert_eq!(
        (of(7, "support-bot").await, of(7, "x").await, of(8, "support-bot").await),
        (5, 0, 0)
    );
}

async fn a_session_with_another_revision_comes_again(test: TestStore) {
    let [first, second] = std::array::from_fn(|_| fresh_id());
    test.take(&[ended(first)]).await;
    test.take(&[ended(second)]).await;
    let (found, end) = walk_until(&test, Cursor::default(), 2).await;
    assert_eq!(found, [first, second]);
    meddle(&test, "UPDATE sessions SET revision = 0 WHERE session_id = $1", first).await;
    test.take(&[ended(first)]).await;
    assert_eq!(walk_until(&test, end, 1).await.0, [first]);
    assert_eq!(walk_until(&test, Cursor::default(), 2).await.0, [second, first]);
}

async fn a_walk_misses_nothing_that_is_finalized_meanwhile(test: TestStore) {
    let sessions: Vec<Uuid> = (0..120).map(|_| fresh_id()).collect();
    let is_over = AtomicBool::new(false);
    let worker = async |mine: &[Uuid]| {
        for few in mine.chunks(3) {
            test.take(&few.iter().copied().map(ended).collect::<Vec<_>>()).await;
        }
    };
    let working = async {
        let (one, rest) = sessions.split_at(40);
        let (other, third) = rest.split_at(40);
        tokio::join!(worker(one), worker(other), worker(third));
        is_over.store(true, Ordering::SeqCst);
    };
    let mut found = Vec::new();
    let walking = async {
        let mut cursor = Cursor::default();
        until("the walk has seen the end", async || {
            let was_over = is_over.load(Ordering::SeqCst);
            let walked = walk(&test, cursor, 200).await;
            found.extend(ids(&walked));
            cursor = walked.cursor;
            was_over && found.len() >= sessions.len()
        })
        .await;
    };
    tokio::join!(working, walking);
    assert_eq!(found.len(), sessions.len(), "each once");
    assert_eq!(found.into_iter().collect::<HashSet<_>>(), sessions.into_iter().collect());
}

/// Makes one worker wait in the middle of its transaction: its session is written, and then it
/// finds a message that somebody else is just writing.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_transaction_stays_open_while_others_commit_is_not_skipped() {
    let test = postgres().await;
    let [before, held, later] = std::array::from_fn(|_| fresh_id());
    test.take(&[ended(before)]).await;
    let (found, cursor) = walk_until(&test, Cursor::default(), 1).await;
    assert_eq!(found, [before]);

    let installation = test.store.installation().await.unwrap();
    let key = MessageKey::Finalized { session_id: held, revision: 1 };
    let mut blocker = sqlx::PgConnection::connect(&test.url).await.unwrap();
    let mut blocking = blocker.begin().await.unwrap();
    // In the place of the one that will tell of the session, which gets the next number.
    sqlx::query(
        "INSERT INTO messages (row_id, message_id, session_number, type, created_at)
            SELECT gen_random_uuid(), $1, last_value + 1, 'x', $2 FROM session_numbers",
    )
    .bind(&MessageId::new(installation, &key).0[..])
    .bind(noon())
    .execute(&mut *blocking)
    .await
    .unwrap();
    let waiting = async {
        let mut observer = sqlx::PgConnection::connect(&test.url).await.unwrap();
        until("the worker waits", async || {
            sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock')",
            )
            .fetch_one(&mut observer)
            .await
            .unwrap()
        })
        .await;
        test.take(&[ended(later)]).await;
        let is_readable = test.store.session(later).await.unwrap().is_some();
        assert!(is_readable && test.store.session(held).await.unwrap().is_none());
        let meanwhile = walk(&test, cursor, 10).await;
        assert_eq!(ids(&meanwhile), [] as [Uuid; 0], "what was committed later must wait");
        blocking.rollback().await.unwrap();
        meanwhile.cursor
    };
    let call = [ended(held)];
    let (_, cursor) = tokio::join!(test.take(&call), waiting);
    assert_eq!(walk_until(&test, cursor, 2).await.0, [held, later]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_from_another_cluster_is_refused_until_it_is_migrated() {
    let test = postgres().await;
    let [first, second, third] = std::array::from_fn(|_| fresh_id());
    test.take(&[ended(first)]).await;
    test.take(&[ended(second)]).await;
    let (_, end) = walk_until(&test, Cursor::default(), 2).await;
    // The other cluster had counted further than this one.
    let ahead = "UPDATE sessions SET finalized_xid = '8888888888888' WHERE session_id = $1";
    meddle(&test, ahead, second).await;

    let Err(error) = open(&test.url, OpenMode::Existing).await else { panic!("it was opened") };
    assert_eq!(
        error.to_string(),
        "the PostgreSQL database was restored from another cluster; run `finalizer migrate`"
    );
    migrate(&test.url).await.unwrap();
    let store = open(&test.url, OpenMode::Existing).await.unwrap();
    store.now().await.unwrap();

    test.take(&[ended(third)]).await;
    let (found, cursor) = walk_until(&test, end, 3).await;
    assert_eq!(found, [first, second, third], "a cursor of before begins anew");
    migrate(&test.url).await.unwrap();
    let nothing = ids(&walk(&test, cursor, 10).await);
    assert_eq!(nothing, [] as [Uuid; 0], "nothing was ahead: cursors stay good");
}
