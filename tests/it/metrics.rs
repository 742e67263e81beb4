//! What the service says of itself: read by Prometheus' own reader, described in docs/metrics.md, and
//! all that the board and the alerts ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use chrono::TimeDelta;
use finalizer::finalize::PriceBook;
use finalizer::intake::amqp::{self, AmqpSettings, HOLD_AT_MOST};
use finalizer::intake::{Intake, IntakeParts, NoDesk, Replayer};
use finalizer::metrics::Metrics;
use http::StatusCode;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::broker::{DEAD_QUEUE, QUEUE};
use crate::harness::inside::HandClock;
use crate::harness::programs::curl;
use crate::harness::proxy::Proxy;
use crate::harness::receiver::{Receiver, Reply};
use crate::harness::service::Site;
use crate::harness::{bytes_of, ended, fresh_id, postgres, sqlite, until};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A sample: name, labels and value.
type Sample = (String, BTreeMap<String, String>, f64);

/// What Prometheus' reader makes of metrics. The queries in the files
/// may ask for nothing else.
fn read(metrics: &str, files: &[&str]) -> Vec<Sample> {
    let mut reader = Command::new("scripts/python")
        .arg("tests/metrics/check.py")
        .args(files)
        .current_dir(ROOT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    reader.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = reader.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every metric, those included that are there only sometimes.
fn all_metrics() -> String {
    let metrics = Metrics::default();
    for queue in [QUEUE, DEAD_QUEUE] {
        drop(metrics.broker.waiting.get_or_create(&[("queue", queue)]));
    }
    for part in ["store", "intake", "consumer"] {
        drop(metrics.asked.healthy.get_or_create(&[("part", part)]));
    }
    let request = [("route", "/livez".to_owned()), ("status", "2xx".to_owned())];
    drop(metrics.requests.get_or_create(&request));
    for known in [&metrics.asked.pending, &metrics.asked.overdue, &metrics.asked.open_failures] {
        known.set(Some(0.0));
    }
    metrics.encode()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_counted_and_prometheus_can_read_it() {
    let site = Site::with_broker(postgres().await).await;
    let receiver = Receiver::that(|told| Reply::Say([503, 204][told.copies_before.min(1)])).await;
    site.subscribe(&receiver).await;
    let process = site.start().await;
    until("it consumes", async || process.log().contains("\"consuming\"")).await;
    let mut unpriced = ended(fresh_id());
    unpriced["usage"] = json!([{
        "type": "llm", "provider": "nobody", "model": "knows", "input_tokens": 1, "output_tokens": 1,
    }]);
    let event = ended(fresh_id());
    let mut events = bytes_of(&[event.clone(), event, unpriced]);
    events.push("{".into());
    site.broker().publish(&events).await;
    until("all are taken", async || site.failures().await.len() == 1).await;
    let (status, _) = process.caller().send_event(ended(fresh_id()).to_string().into()).await;
    assert_eq!(status, StatusCode::OK);
    until("all is told and counted", async || {
        process.metrics().value("finalizer_attempts_total{outcome=\"delivered\"}") == Some(3.0)
    })
    .await;
    let read = read(&process.metrics().0, &[]);
    let value = |name: &str, labels: &[(&str, &str)]| {
        let is_it = |of: &BTreeMap<String, String>| {
            labels.iter().all(|(label, value)| of.get(*label).is_some_and(|of| of == value))
        };
        let name = format!("finalizer_{name}");
        read.iter().find(|(other, of, _)| *other == name && is_it(of)).map(|(_, _, value)| *value)
    };
    let taken = |outcome| value("events_total", &[("source", "amqp"), ("outcome", outcome)]);
    assert_eq!(["finalized", "duplicate", "failed"].map(taken), [Some(2.0), Some(1.0), Some(1.0)]);
    assert_eq!(value("events_total", &[("source", "http"), ("outcome", "finalized")]), Some(1.0));
    assert_eq!(value("failures_total", &[("code", "malformed_json")]), Some(1.0));
    assert_eq!(value("call_end_to_readable_seconds_count", &[]), Some(3.0));
    assert_eq!(value("unpriced_sessions_total", &[("kind", "llm")]), Some(1.0));
    assert_eq!(value("attempts_total", &[("outcome", "server_error")]), Some(3.0));
    let retry = [("attempt", "retry")];
    assert_eq!(value("readable_to_delivered_seconds_count", &retry), Some(3.0));
    assert!(value("readable_to_delivered_seconds_sum", &retry) >= Some(15.0), "5 s each");
    assert_eq!(value("failures_open", &[]), Some(1.0));
    assert_eq!(value("part_healthy", &[("part", "consumer")]), Some(1.0));
    assert_eq!(value("queue_messages", &[("queue", QUEUE)]), Some(0.0));
    assert_eq!(value("batch_events_sum", &[]), Some(5.0));
    let committed = |work| {
        value("transaction_duration_seconds_count", &[("work", work), ("outcome", "committed")])
    };
    assert!(["take", "claim", "record"].into_iter().all(|work| committed(work) >= Some(1.0)));
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_the_api_answers_probes_and_nothing_else() {
    let site = Site::embedded(sqlite().await).await.with("FINALIZER_ROLES", "deliver");
    let process = site.start().await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(process.caller().get(path).await.0, StatusCode::OK, "{path}");
    }
    let metrics = process.metrics();
    assert_eq!(metrics.value("finalizer_part_healthy{part=\"store\"}"), Some(1.0));
    assert_eq!(metrics.value("finalizer_deliveries_pending"), Some(0.0));
    let answer = curl(&format!("{}/api/billing/usage/", process.url().unwrap()), &[]);
    assert_eq!(answer.status, 404);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_seen_in_the_metrics_and_so_is_its_return() {
    let site = Site::with_broker(sqlite().await).await;
    let broker = Proxy::to(&site.broker().url).await;
    let site = site.with("FINALIZER_AMQP_URL", &broker.url);
    let process = site.start().await;
    let consumer = || process.metrics().value("finalizer_part_healthy{part=\"consumer\"}");
    until("it consumes", async || consumer() == Some(1.0)).await;
    let waiting = format!("finalizer_queue_messages{{queue=\"{QUEUE}\"}}");
    until("it knows the queue", async || process.metrics().value(&waiting) == Some(0.0)).await;
    broker.cut();
    until("it does not consume", async || consumer() == Some(0.0)).await;
    let metrics = process.metrics();
    assert_eq!(metrics.value(&waiting), None, "nobody knows how many wait");
    assert!(metrics.value("finalizer_consumer_interruptions_total") >= Some(1.0));
    assert_eq!(metrics.value("finalizer_part_healthy{part=\"store\"}"), Some(1.0));
    broker.open();
    until("it consumes again", async || consumer() == Some(1.0)).await;
    until("it knows the queue", async || process.metrics().value(&waiting) == Some(0.0)).await;
    process.stop().await;
}

/// What is in hand stays there, because nobody takes batches: then somebody does.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_does_not_get_on_is_known_to_be_stalled_until_it_does() {
    let site = Site::with_broker(sqlite().await).await;
    let clock = Arc::<HandClock>::default();
    let parts = IntakeParts {
        store: Arc::clone(&site.test.store),
        clock: Arc::<HandClock>::clone(&clock),
        prices: Arc::new(PriceBook::builtin()),
        public_url: "https://voice.example.com".to_owned(),
        recordings_place: "s3://recordings".to_owned(),
        desk: Arc::new(NoDesk),
        max_event_bytes: 4 << 20,
        metrics: Arc::default(),
    };
    let (metrics, stop) = (Arc::clone(&parts.metrics), CancellationToken::new());
    let replayer = Replayer::new(parts.clone(), stop.clone());
    let (intake, batches) = Intake::new(parts, stop.clone());
    let settings = AmqpSettings {
        url: site.broker().url.clone(),
        prefetch: 500,
        is_declaring: true,
        hold_at_most: HOLD_AT_MOST,
    };
    let takers = (intake.clone(), replayer);
    let consuming = tokio::spawn(amqp::run(settings, takers, Arc::default(), stop.clone()));
    site.broker().publish(&bytes_of(&[ended(fresh_id())])).await;
    until("it is in hand", async || metrics.broker.in_hand.get() == 1).await;
    assert!(!intake.is_stalled());
    clock.advance(TimeDelta::minutes(3));
    assert!(intake.is_stalled());
    let batches = tokio::spawn(batches);
    until("it is taken", async || metrics.broker.in_hand.get() == 0).await;
    assert!(!intake.is_stalled());
    clock.advance(TimeDelta::minutes(3));
    assert!(!intake.is_stalled(), "there is nothing to get on with");
    stop.cancel();
    consuming.await.unwrap().unwrap();
    drop(intake);
    batches.await.unwrap().unwrap();
}

#[test]
fn the_board_and_the_alerts_ask_for_what_there_is() {
    let files = ["deploy/grafana/finalizer.json", "deploy/prometheus/alerts.yml"];
    assert!(!read(&all_metrics(), &files).is_empty());
}

#[test]
fn every_alert_leads_to_a_heading_of_the_runbook_and_every_heading_is_led_to() {
    let alerts = std::fs::read_to_string(Path::new(ROOT).join("deploy/prometheus/alerts.yml"));
    let alerts = alerts.unwrap();
    let named = alerts.lines().filter_map(|line| line.split_once("runbook: docs/runbook.md#"));
    let named: Vec<&str> = named.map(|(_, anchor)| anchor).collect();
    assert_eq!(named.len(), alerts.matches("- alert: ").count(), "each alert names one");
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/runbook.md")).unwrap();
    let headings: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|heading| heading.to_lowercase().replace(' ', "-"))
        .collect();
    let named: BTreeSet<String> = named.into_iter().map(str::to_owned).collect();
    assert_eq!(named, headings);
}

/// Names as queries have them, and what the program itself says of each.
fn table() -> String {
    let text = all_metrics();
    let mut table = "| metric | kind | labels | what it says |\n|---|---|---|---|\n".to_owned();
    for part in text.split("# HELP ").skip(1) {
        let (name, help) = part.lines().next().unwrap().split_once(' ').unwrap();
        let kind = part.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} ")));
        let sample = part.lines().rfind(|line| !line.starts_with('#')).unwrap();
        let labels = sample.split_once('{').map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
        let labels: Vec<String> = labels
            .split(',')
            .filter_map(|label| label.split_once('='))
            .filter(|(label, _)| *label != "le")
            .map(|(label, _)| format!("`{label}`"))
            .collect();
        let ending = match kind.unwrap() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let (kind, labels) = (kind.unwrap(), labels.join(", "));
        writeln!(table, "| `{name}{ending}` | {kind} | {labels} | {help} |").unwrap();
    }
    table
}

#[test]
fn the_page_describes_every_metric_as_it_is() {
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/metrics.md")).unwrap();
    let table = table();
    assert!(page.contains(&table), "the table in docs/metrics.md is to be:\n\n{table}");
}

#[test]
fn a_query_for_what_there_is_not_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yml");
    let rule = |expr: &str| {
        let alert: Value = json!({"alert": "A", "expr": expr});
        let rules = folder.path().join("rules.yml");
        std::fs::write(rules, json!({"groups": [{"rules": [alert]}]}).to_string()).unwrap();
    };
    for wrong in [
        "finalizer_nothing_total > 1",
        "finalizer_failures_total{kind=\"x\"} > 1",
        "finalizer_failures_total{code=\"x\"} > 1",
        "sum by (kind) (finalizer_failures_total) > 1",
        "finalizer_failures_total{ > 1",
    ] {
        rule(wrong);
        let file = rules.to_str().unwrap();
        let found = std::panic::catch_unwind(|| read(&all_metrics(), &[file]));
        assert!(found.is_err(), "{wrong}");
    }
}
