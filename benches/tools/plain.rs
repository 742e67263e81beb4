//! What a voice worker's end of a call becomes, without anything that a product adds: a row with
//! its transcript, and a signed webhook. As fast as we know how.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::Sha256;
use sqlx::PgPool;
use uuid::Uuid;

/// Rows in one statement.
pub(crate) const BATCH: usize = 200;
/// Statements at once.
pub(crate) const COMMITTERS: usize = 2;
/// POSTs at once.
pub(crate) const POSTS: usize = 64;

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

/// A session that is there already is left alone, and nothing more is owed for it.
const INSERT: &str = "
WITH inserted AS (
    INSERT INTO sessions (session_id, tenant_id, character_slug, character_owner, turn_count,
        usage, transcript, body, finalized_at)
    SELECT *, $9
    FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::int[],
        $6::json[], $7::json[], $8::text[])
    ON CONFLICT DO NOTHING
    RETURNING session_id)
INSERT INTO deliveries (session_id, state)
SELECT session_id, 'pending' FROM inserted
RETURNING session_id";

#[derive(Deserialize)]
pub(crate) struct Ended<'a> {
    session_id: Uuid,
    #[serde(borrow)]
    tenant_id: Cow<'a, str>,
    #[serde(borrow)]
    character_slug: Cow<'a, str>,
    character_owner: i64,
    started_at: DateTime<Utc>,
    #[serde(borrow)]
    report: Report<'a>,
}

#[derive(Deserialize)]
struct Report<'a> {
    #[serde(borrow)]
    chat_history: History<'a>,
    #[serde(borrow)]
    usage: &'a RawValue,
}

#[derive(Deserialize)]
struct History<'a> {
    #[serde(borrow)]
    items: Vec<Item<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    role: Option<Text<'a>>,
    #[serde(borrow, default)]
    content: Vec<Text<'a>>,
    created_at: f64,
}

/// Inside of another type, text is only borrowed in one of its own.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Serialize)]
struct Turn<'a> {
    role: &'a str,
    text: Cow<'a, str>,
    #[serde(rename = "turn_index")]
    index: usize,
    ts: f64,
}

#[derive(Serialize)]
struct Webhook<'a> {
    r#type: &'a str,
    timestamp: DateTime<Utc>,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    session_id: Uuid,
    tenant_id: &'a str,
    character_slug: &'a str,
    turn_count: usize,
    created_at: DateTime<Utc>,
    finalized_at: DateTime<Utc>,
    url: String,
}

/// What is kept of a call.
pub(crate) struct Row {
    pub(crate) session_id: Uuid,
    tenant_id: String,
    character_slug: String,
    character_owner: i64,
    turn_count: i32,
    usage: String,
    transcript: String,
    pub(crate) body: String,
}

pub(crate) fn decode(event: &[u8]) -> serde_json::Result<Ended<'_>> {
    serde_json::from_slice(event)
}

impl Row {
    pub(crate) fn of(event: &[u8], now: DateTime<Utc>) -> anyhow::Result<Self> {
        let call = decode(event)?;
        let (turn_count, transcript) = {
            let turns = call.turns();
            (turns.len(), serde_json::to_string(&turns)?)
        };
        Ok(Self {
            session_id: call.session_id,
            turn_count: i32::try_from(turn_count)?,
            usage: call.report.usage.get().to_owned(),
            transcript,
            body: call.body(turn_count, now)?,
            character_owner: call.character_owner,
            tenant_id: call.tenant_id.into_owned(),
            character_slug: call.character_slug.into_owned(),
        })
    }
}

impl Ended<'_> {
    fn turns(&self) -> Vec<Turn<'_>> {
        let start = f64::from(i32::try_from(self.started_at.timestamp()).unwrap_or(0));
        let spoken = self.report.chat_history.items.iter().filter_map(|item| {
            let Text(role) = item.role.as_ref()?;
            let is_spoken = matches!(&**role, "user" | "assistant");
            is_spoken.then(|| (&**role, item.text(), item.created_at - start))
        });
        let numbered = spoken.enumerate();
        numbered.map(|(index, (role, text, ts))| Turn { role, text, index, ts }).collect()
    }

    fn body(&self, turn_count: usize, now: DateTime<Utc>) -> serde_json::Result<String> {
        let data = Data {
            session_id: self.session_id,
            tenant_id: &self.tenant_id,
            character_slug: &self.character_slug,
            turn_count,
            created_at: self.started_at,
            finalized_at: now,
            url: format!("http://127.0.0.1/api/billing/sessions/{}/", self.session_id),
        };
        serde_json::to_string(&Webhook { r#type: "session.finalized", timestamp: now, data })
    }
}

impl Item<'_> {
    fn text(&self) -> Cow<'_, str> {
        match self.content.as_slice() {
            [Text(text)] => Cow::Borrowed(text.trim()),
            parts => {
                let parts: Vec<&str> = parts.iter().map(|Text(part)| &**part).collect();
                Cow::Owned(parts.join("\n").trim().to_owned())
            }
        }
    }
}

/// Commits the rows, each session once; the sessions that are new. The rows must be in the order
/// of their ids: two statements that lock the same ids in different orders would wait for each other.
pub(crate) async fn insert(
    pool: &PgPool,
    rows: &[Row],
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<Uuid>> {
    let texts = |text: fn(&Row) -> &str| rows.iter().map(text).collect::<Vec<_>>();
    sqlx::query_scalar(INSERT)
        .bind(rows.iter().map(|row| row.session_id).collect::<Vec<_>>())
        .bind(texts(|row| &row.tenant_id))
        .bind(texts(|row| &row.character_slug))
        .bind(rows.iter().map(|row| row.character_owner).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.turn_count).collect::<Vec<_>>())
        .bind(texts(|row| &row.usage))
        .bind(texts(|row| &row.transcript))
        .bind(texts(|row| &row.body))
        .bind(now)
        .fetch_all(pool)
        .await
}

/// The signature as Standard Webhooks has it.
pub(crate) fn sign(id: &str, timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY).expect("HMAC takes a key of any length");
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// Sends a signed webhook; whether it was taken.
pub(crate) async fn post(
    client: &Client<HttpConnector, Full<Bytes>>,
    url: &http::Uri,
    session_id: Uuid,
    body: String,
    now: DateTime<Utc>,
) -> anyhow::Result<bool> {
    let (id, timestamp) = (session_id.to_string(), now.timestamp().to_string());
    let signature = sign(&id, &timestamp, body.as_bytes());
    send(client, url, [id, timestamp, signature], body).await
}

/// Sends a webhook with its id, timestamp and signature; whether it was taken.
pub(crate) async fn send(
    client: &Client<HttpConnector, Full<Bytes>>,
    url: &http::Uri,
    [id, timestamp, signature]: [String; 3],
    body: String,
) -> anyhow::Result<bool> {
    let request = http::Request::post(url)
        .header("content-type", "application/json")
        .header("webhook-id", id)
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", signature)
        .body(Full::from(body))?;
    let response = client.request(request).await?;
    let is_success = response.status().is_success();
    response.into_body().collect().await?;
    Ok(is_success)
}
