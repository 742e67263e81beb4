//! The worker one would write first, to measure against: `naive DATABASE_URL AMQP_URL WEBHOOK_URL`.
//! `naive.sql` makes its tables.
//!
//! One transaction per event and one acknowledgement each, 32 at a time; deliveries are polled
//! from the database and their results marked one by one. It does less than the product:
//! no duplicates by content, no costs, no recordings, no retries.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use finalizer::clock::{SystemClock, new_id};
use futures_util::TryStreamExt;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use standardwebhooks::Webhook;
use uuid::Uuid;

use super::Arguments;
use super::plain::send;

const AT_ONCE: usize = 32;
const CLAIM: i64 = 100;
const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

const INSERT_SESSION: &str = "
INSERT INTO sessions (session_id, tenant_id, character_slug, character_owner, turn_count, usage,
    transcript, transcript_text, finalized_at)
VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, $8, $9)
ON CONFLICT DO NOTHING";

const INSERT_DELIVERY: &str = "
INSERT INTO deliveries (delivery_id, session_id, body, state, created_at)
VALUES ($1, $2, $3, 'pending', $4)";

const CLAIM_DELIVERIES: &str = "
UPDATE deliveries
SET leased_until = $1
WHERE delivery_id IN (
    SELECT delivery_id FROM deliveries
    WHERE state = 'pending' AND (leased_until IS NULL OR leased_until < $2)
    ORDER BY created_at
    LIMIT $3
    FOR UPDATE SKIP LOCKED)
RETURNING delivery_id, body";

const MARK_DELIVERED: &str = "UPDATE deliveries SET state = 'delivered' WHERE delivery_id = $1";

#[derive(Deserialize)]
struct Ended {
    session_id: Uuid,
    tenant_id: String,
    character_slug: String,
    character_owner: i64,
    started_at: DateTime<Utc>,
    report: Report,
}

#[derive(Deserialize)]
struct Report {
    chat_history: History,
    usage: serde_json::Value,
}

#[derive(Deserialize)]
struct History {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    role: Option<String>,
    #[serde(default)]
    content: Vec<String>,
    created_at: f64,
}

#[derive(Serialize)]
struct Said {
    role: String,
    text: String,
    turn_index: usize,
    ts: f64,
}

#[tokio::main]
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let arguments: Vec<String> = arguments.collect();
    let [database_url, amqp_url, webhook_url] = arguments.as_slice() else {
        anyhow::bail!("usage: naive DATABASE_URL AMQP_URL WEBHOOK_URL");
    };
    let pool = PgPoolOptions::new().max_connections(2 * 32).connect(database_url).await?;
    tokio::try_join!(consume(amqp_url, &pool), deliver(webhook_url, &pool))?;
    Ok(())
}

async fn consume(amqp_url: &str, pool: &PgPool) -> anyhow::Result<()> {
    let runtime = async_rs::Runtime::tokio_current();
    let properties = lapin::ConnectionProperties::default();
    let connection = lapin::Connection::connect_with_runtime(amqp_url, properties, runtime).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(100, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let queue = "finalizer.events".into();
    let consumer = channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
    println!("consuming");
    let finalize = |delivery| finalize(delivery, pool);
    consumer.map_err(anyhow::Error::from).try_for_each_concurrent(AT_ONCE, finalize).await
}

async fn finalize(delivery: Delivery, pool: &PgPool) -> anyhow::Result<()> {
    let event: Ended = serde_json::from_slice(&delivery.data)?;
    let turns = transcript(event.report.chat_history.items, event.started_at);
    let now = SystemClock::machine_now();
    let body = body(event.session_id, &event.tenant_id, turns.len(), now);
    let mut transaction = pool.begin().await?;
    let inserted = sqlx::query(INSERT_SESSION)
        .bind(event.session_id)
        .bind(event.tenant_id)
        .bind(event.character_slug)
        .bind(event.character_owner)
        .bind(i32::try_from(turns.len())?)
        .bind(event.report.usage.to_string())
        .bind(serde_json::to_string(&turns)?)
        .bind(text(&turns))
        .bind(now)
        .execute(&mut *transaction)
        .await?;
    if inserted.rows_affected() == 1 {
        sqlx::query(INSERT_DELIVERY)
            .bind(new_id(now))
            .bind(event.session_id)
            .bind(body)
            .bind(now)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    delivery.acker.ack(BasicAckOptions::default()).await?;
    Ok(())
}

fn transcript(items: Vec<Item>, started_at: DateTime<Utc>) -> Vec<Said> {
    let start = f64::from(i32::try_from(started_at.timestamp()).unwrap_or(0));
    let spoken = items.into_iter().filter_map(|item| {
        let role = item.role.filter(|role| role == "user" || role == "assistant")?;
        Some((role, item.content.join("\n").trim().to_owned(), item.created_at - start))
    });
    let numbered = spoken.enumerate();
    numbered.map(|(turn_index, (role, text, ts))| Said { role, text, turn_index, ts }).collect()
}

fn text(turns: &[Said]) -> String {
    let lines = turns.iter().map(|turn| format!("{}: {}", turn.role, turn.text));
    lines.collect::<Vec<_>>().join("\n")
}

fn body(session_id: Uuid, tenant_id: &str, turn_count: usize, now: DateTime<Utc>) -> String {
    let data = json!({
        "session_id": session_id,
        "tenant_id": tenant_id,
        "turn_count": turn_count,
        "finalized_at": now,
    });
    json!({ "type": "session.finalized", "timestamp": now, "data": data }).to_string()
}

async fn deliver(webhook_url: &str, pool: &PgPool) -> anyhow::Result<()> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let (webhook, url) = (Webhook::new(SECRET)?, webhook_url.parse()?);
    loop {
        let now = SystemClock::machine_now();
        let claimed: Vec<(Uuid, String)> = sqlx::query_as(CLAIM_DELIVERIES)
            .bind(now + chrono::TimeDelta::seconds(60))
            .bind(now)
            .bind(CLAIM)
            .fetch_all(pool)
            .await?;
        if claimed.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let posts = futures_util::stream::iter(claimed.into_iter().map(Ok));
        let post = |(id, body)| post(&client, &webhook, &url, pool, id, body);
        posts.try_for_each_concurrent(AT_ONCE, post).await?;
    }
}

async fn post(
    client: &Client<HttpConnector, Full<Bytes>>,
    webhook: &Webhook,
    url: &http::Uri,
    pool: &PgPool,
    delivery_id: Uuid,
    body: String,
) -> anyhow::Result<()> {
    let (id, timestamp) = (delivery_id.to_string(), SystemClock::machine_now().timestamp());
    let signature = webhook.sign(&id, timestamp, body.as_bytes())?;
    let is_success = send(client, url, [id, timestamp.to_string(), signature], body).await?;
    if is_success {
        sqlx::query(MARK_DELIVERED).bind(delivery_id).execute(pool).await?;
    }
    Ok(())
}
