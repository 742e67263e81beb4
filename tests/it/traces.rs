//! A trace that a publisher began is carried on to the receiver.

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;
use uuid::Uuid;

use crate::harness::receiver::{Receiver, Reply, Told};
use crate::harness::service::Site;
use crate::harness::{TestStore, bytes_of, ended, fresh_id, on_both_stores, sqlite, until};

on_both_stores![
    a_trace_reaches_the_receiver_with_every_attempt_whichever_process_makes_it,
    a_trace_that_came_over_http_reaches_the_receiver,
];

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn event(session_id: Uuid) -> Bytes {
    ended(session_id).to_string().into()
}

fn traces(told: &[Told], session_id: Uuid) -> Vec<Option<&str>> {
    told.iter().filter(|told| told.session_id() == session_id).map(Told::traceparent).collect()
}

async fn a_trace_reaches_the_receiver_with_every_attempt_whichever_process_makes_it(
    test: TestStore,
) {
    let site = Site::with_broker(test).await;
    let receiver =
        Receiver::that(|told| Reply::Say(if told.copies_before == 0 { 500 } else { 204 })).await;
    site.subscribe(&receiver).await;
    let first = site.start().await;
    let (traced, untraced) = (fresh_id(), fresh_id());
    until("there is a queue", async || site.broker().queue("finalizer.events").await.is_some())
        .await;
    site.broker().publish_traced(&event(traced), TRACE).await;
    site.broker().publish(&bytes_of(&[ended(untraced)])).await;
    until("both are told once", async || receiver.told().len() == 2).await;
    let failed = async |session_id| {
        let deliveries = site.test.store.deliveries_of(session_id).await.unwrap();
        deliveries[0].attempts == 1
    };
    until("the failed attempts are recorded", async || {
        failed(traced).await && failed(untraced).await
    })
    .await;
    assert!(first.log().contains(TRACE_ID), "{}", first.log());
    first.kill();
    let second = site.start().await;
    until("both are told again", async || receiver.told().len() == 4).await;
    let told = receiver.told();
    assert_eq!(traces(&told, traced), [Some(TRACE); 2]);
    assert_eq!(traces(&told, untraced), [None; 2]);
    second.stop().await;
}

async fn a_trace_that_came_over_http_reaches_the_receiver(test: TestStore) {
    let site = Site::embedded(test).await;
    let receiver = Receiver::start().await;
    site.subscribe(&receiver).await;
    let process = site.start().await;
    let sessions: [Uuid; 3] = std::array::from_fn(|_| fresh_id());
    let invalid = TRACE.replace("00-4bf", "ff-4bf");
    for (session_id, trace) in sessions.into_iter().zip([TRACE, &invalid, "nonsense"]) {
        let status = process.caller().send_traced(event(session_id), trace).await;
        assert_eq!(status, StatusCode::OK);
    }
    until("all are told", async || receiver.told().len() == 3).await;
    let told = receiver.told();
    let seen = sessions.map(|session_id| traces(&told, session_id));
    assert_eq!(seen, [vec![Some(TRACE)], vec![None], vec![None]], "what is not valid is no trace");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_is_replayed_still_has_its_trace() {
    let site = Site::embedded(sqlite().await).await;
    let receiver = Receiver::start().await;
    site.subscribe(&receiver).await;
    let process = site.start().await;
    let session_id = fresh_id();
    process.caller().send_traced(event(session_id), &TRACE.replace("-01", "-00")).await;
    until("the first revision is told", async || receiver.told().len() == 1).await;
    let mut other = ended(session_id);
    other["messages"][0]["text"] = json!("Something else.");
    process.caller().send_traced(other.to_string().into(), TRACE).await;
    let failures = site.failures().await;
    assert_eq!(failures.len(), 1);
    let id = failures[0].failure_id.to_string();
    let replayed = site.run(&["failures", "replay", &id, "--supersede"]);
    assert!(replayed.status.success(), "{replayed:?}");
    until("both revisions are told", async || receiver.told().len() == 2).await;
    let told = receiver.told();
    assert_eq!(traces(&told, session_id), [Some(&*TRACE.replace("-01", "-00")), Some(TRACE)]);
    process.stop().await;
}

/// Whoever collects spans: the bodies that came.
#[cfg(feature = "otlp")]
async fn collector() -> (String, std::sync::Arc<std::sync::Mutex<Vec<u8>>>) {
    let collected = std::sync::Arc::<std::sync::Mutex<Vec<u8>>>::default();
    let kept = std::sync::Arc::clone(&collected);
    let take = async move |body: Bytes| kept.lock().unwrap().extend_from_slice(&body);
    let router = axum::Router::new().route("/v1/traces", axum::routing::post(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, collected)
}

#[cfg(feature = "otlp")]
#[tokio::test(flavor = "multi_thread")]
async fn spans_of_a_sampled_trace_are_exported_and_the_webhook_names_its_own() {
    let (url, collected) = collector().await;
    let site = Site::embedded(sqlite().await).await.with("OTEL_EXPORTER_OTLP_ENDPOINT", &url);
    let receiver = Receiver::start().await;
    site.subscribe(&receiver).await;
    let process = site.start().await;
    let unsampled = TRACE.replace("-01", "-00").replace(TRACE_ID, &"ab".repeat(16));
    let sessions = [fresh_id(), fresh_id()];
    for (session_id, trace) in sessions.into_iter().zip([TRACE, &unsampled]) {
        process.caller().send_traced(event(session_id), trace).await;
    }
    until("both are told", async || receiver.told().len() == 2).await;
    process.stop().await;
    let told = receiver.told();
    assert_eq!(traces(&told, sessions[1]), [Some(&*unsampled)], "nobody wants to see it");
    let sampled = traces(&told, sessions[0])[0].unwrap();
    assert!(sampled.starts_with(&format!("00-{TRACE_ID}-")) && sampled != TRACE, "{sampled}");
    let collected = collected.lock().unwrap();
    let holds = |bytes: &[u8]| collected.windows(bytes.len()).any(|part| part == bytes);
    let holds_id = |digits: &str| holds(&hex::decode(digits).unwrap());
    assert!(holds(b"take event") && holds(b"attempt webhook"));
    assert!(holds_id(TRACE_ID) && holds_id(&TRACE[36..52]), "the trace, and the publisher's span");
    assert!(holds_id(&sampled[36..52]), "the span that the webhook names");
    assert!(!holds_id(&"ab".repeat(16)));
}
