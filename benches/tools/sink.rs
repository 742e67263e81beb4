//! A receiver that costs next to nothing: `sink [KIND [LISTENERS]]` prints the URL of each listener.
//!
//! It reads every request and answers 204 (`answer`; a GET tells how many there were), 204 and a GET
//! tells when which session's webhook arrived since the last GET (`note`), 204 after 15 seconds
//! (`hang`), or 500 (`fail`).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::bail;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use bytes::Bytes;
use finalizer::clock::SystemClock;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::Arguments;

const HANG: Duration = Duration::from_secs(15);

/// A line for each webhook: the session's id and the time in microseconds.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<String>>);

#[derive(Deserialize)]
struct Webhook {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    session_id: Uuid,
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    let router = router(&arguments.next().unwrap_or_else(|| "answer".into()))?;
    let listeners: u32 = arguments.next().unwrap_or_else(|| "1".into()).parse()?;
    let mut serving = JoinSet::new();
    for _ in 0..listeners {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("http://{}/", listener.local_addr()?);
        let router = router.clone();
        serving.spawn(async move { axum::serve(listener, router).await });
    }
    while let Some(ended) = serving.join_next().await {
        ended??;
    }
    Ok(())
}

/// Each takes the body: if it were not read, the connection could not carry the next request.
fn router(kind: &str) -> anyhow::Result<Router> {
    Ok(match kind {
        "answer" => counting(),
        "note" => noting(),
        "hang" => Router::new().fallback(|_body: Bytes| async {
            tokio::time::sleep(HANG).await;
            StatusCode::NO_CONTENT
        }),
        "fail" => {
            Router::new().fallback(|_body: Bytes| async { StatusCode::INTERNAL_SERVER_ERROR })
        }
        other => bail!("a sink can answer, note, hang or fail, not {other:?}"),
    })
}

fn counting() -> Router {
    let counted = Arc::new(AtomicU64::new(0));
    let shown = counted.clone();
    let count = move |_body: Bytes| async move {
        counted.fetch_add(1, Ordering::Relaxed);
        StatusCode::NO_CONTENT
    };
    let show = || async move { shown.load(Ordering::Relaxed).to_string() };
    Router::new().route("/", get(show).post(count))
}

fn noting() -> Router {
    let notes = Notes::default();
    let shown = notes.clone();
    let note = |body: Bytes| async move { notes.note(&body) };
    Router::new().route("/", get(|| async move { shown.take() }).post(note))
}

impl Notes {
    fn note(&self, body: &[u8]) -> StatusCode {
        let now = SystemClock::machine_now().timestamp_micros();
        let Ok(webhook) = serde_json::from_slice::<Webhook>(body) else {
            return StatusCode::BAD_REQUEST;
        };
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _always_ok = writeln!(notes, "{} {now}", webhook.data.session_id);
        StatusCode::NO_CONTENT
    }

    fn take(&self) -> String {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
