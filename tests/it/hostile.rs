//! Receivers that do not behave, beside one that does; and an environment that names proxies.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use http::StatusCode;
use serde_json::Value;
use sqlx::Connection as _;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::harness::hostile::{HOSTILITIES, Hostile, Outcome};
use crate::harness::receiver::Receiver;
use crate::harness::service::{Process, Site, subscription_at};
use crate::harness::{
    TestStore, bytes_of, ended, fresh_id, on_both_stores, postgres, sqlite, until,
};

on_both_stores![receivers_that_do_not_behave_cost_the_others_nothing];

/// So few that a machine busy with other tests tells the healthy one of all before an attempt that
/// hangs can have ended.
const SESSIONS: usize = 60;
/// Of those who hang, so many attempts are waited for: some that hung side by side. All of them would
/// take more than a minute.
const HANGING: usize = 32;

async fn receivers_that_do_not_behave_cost_the_others_nothing(test: TestStore) {
    let good = among_good_ones(if test.url.starts_with("sqlite") {
        sqlite().await
    } else {
        postgres().await
    })
    .await;
    let site = Site::embedded(test).await;
    let healthy = Receiver::start().await;
    let hostile = join_all(HOSTILITIES.iter().map(|hostility| Hostile::start(*hostility))).await;
    let mut expected = HashMap::new();
    for receiver in &hostile {
        let endpoint_id = subscribe(&site, &receiver.url()).await;
        expected.insert(endpoint_id, receiver.hostility);
    }
    let healthy_id = site.subscribe(&healthy).await;
    let process = site.start().await;
    let fared = tell(&process, &healthy).await;

    // Those whose handshake hangs have less time than the others.
    let is_hanging = |id: &Uuid| {
        expected[id].scheme == "http" && expected[id].outcome == (None, Some("timeout"))
    };
    let ended = attempts(&site).await;
    let waited_for = ended.keys().find(|id| **id != healthy_id && is_hanging(id));
    assert_eq!(waited_for.map(|id| expected[id].name), None, "it was done with before");
    assert!(fared.took < 8 * good.took, "{:?}, {:?} among good ones", fared.took, good.took);

    until("their attempts are on record", async || {
        let attempts = attempts(&site).await;
        expected.iter().all(|(endpoint_id, hostility)| {
            let is_timeout = hostility.outcome.1 == Some("timeout");
            let least = if is_timeout { HANGING } else { SESSIONS };
            attempts.get(endpoint_id).is_some_and(|attempts| attempts.len() >= least)
        })
    })
    .await;
    for (endpoint_id, outcomes) in attempts(&site).await {
        let Some(hostility) = expected.get(&endpoint_id) else { continue };
        for outcome in outcomes {
            let (status, error) = hostility.outcome;
            assert_eq!(outcome, (status, error.map(str::to_owned)), "{}", hostility.name);
        }
    }
    assert_eq!(healthy.told().len(), SESSIONS, "each came once");
    let most = hostile.iter().map(Hostile::written).max().unwrap();
    assert!(most < 2_000_000_000, "{most} bytes were taken of one that sends without end");
    let peak = process.peak_memory();
    assert!(peak < good.peak + (100 << 20), "{peak} bytes, {} among good ones", good.peak);
}

/// How the healthy receiver fares.
struct Fared {
    /// Until it had been told of every session.
    took: Duration,
    /// The most memory of the process in bytes.
    peak: u64,
}

async fn among_good_ones(test: TestStore) -> Fared {
    let site = Site::embedded(test).await;
    let others = join_all(HOSTILITIES.iter().map(|_| Receiver::start())).await;
    for receiver in &others {
        site.subscribe(receiver).await;
    }
    let healthy = Receiver::start().await;
    site.subscribe(&healthy).await;
    let process = site.start().await;
    tell(&process, &healthy).await
}

async fn tell(process: &Process, healthy: &Receiver) -> Fared {
    let begin = Instant::now();
    let events: Vec<Value> = (0..SESSIONS).map(|_| ended(fresh_id())).collect();
    let (status, answers) = process.caller().send_lines(&bytes_of(&events)).await;
    assert_eq!(status, StatusCode::OK, "{answers}");
    until("the healthy one knows all", async || healthy.told().len() >= SESSIONS).await;
    Fared { took: begin.elapsed(), peak: process.peak_memory() }
}

async fn subscribe(site: &Site, url: &str) -> Uuid {
    let endpoint = subscription_at(url);
    site.test.store.add_endpoint(&endpoint).await.unwrap();
    endpoint.endpoint_id
}

/// What came of the first attempts at each endpoint, as it is on record.
async fn attempts(site: &Site) -> HashMap<Uuid, Vec<(Option<u16>, Option<String>)>> {
    const SELECT: &str = "SELECT endpoint_id, status, error FROM attempts
        JOIN deliveries ON deliveries.delivery_id = attempts.delivery_id
        WHERE number = 1";
    let url = &site.test.url;
    let rows: Vec<(Uuid, Option<i32>, Option<String>)> = if url.starts_with("sqlite") {
        let mut connection = sqlx::SqliteConnection::connect(url).await.unwrap();
        sqlx::query_as(SELECT).fetch_all(&mut connection).await.unwrap()
    } else {
        let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::query_as(SELECT).fetch_all(&mut connection).await.unwrap()
    };
    let mut attempts: HashMap<_, Vec<_>> = HashMap::new();
    for (endpoint_id, status, error) in rows {
        let status = status.map(|status| u16::try_from(status).unwrap());
        attempts.entry(endpoint_id).or_default().push((status, error));
    }
    attempts
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_that_the_environment_names_are_not_used() {
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy_url = format!("http://{}", proxy.local_addr().unwrap());
    let mut site = Site::embedded(sqlite().await).await;
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    {
        site = site.with(name, &proxy_url);
    }
    let receiver = Receiver::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("https://localhost:{}/", silent.local_addr().unwrap().port());
    tokio::spawn(async move { while silent.accept().await.is_ok() {} });
    let outcomes: [(_, Outcome); 2] =
        [(receiver.url.clone(), (Some(204), None)), (silent_url, (None, Some("tls")))];
    for (url, (status, error)) in outcomes {
        let endpoint_id = subscribe(&site, &url).await.to_string();
        let output = site.run(&["endpoints", "ping", &endpoint_id, "--json"]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["data"]["status"], Value::from(status), "{url}: {answer}");
        assert_eq!(answer["data"]["error"], Value::from(error), "{url}: {answer}");
    }
    assert!(proxy.accept().now_or_never().is_none(), "somebody called the proxy");
}
