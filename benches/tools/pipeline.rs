//! The hand-tuned pipeline, to measure against: `pipeline DATABASE_URL AMQP_URL WEBHOOK_URL`.
//! `pipeline.sql` makes its tables.
//!
//! It gives the same guarantees as the product and has none of its features: an event is
//! acknowledged after the commit that holds its session and what is owed, a webhook is sent after
//! it, any error ends the process, and what was not acknowledged or not delivered by then is taken
//! up at the next start. Batches of 200 on two connections, acknowledged together; what is owed is
//! handed over in memory, and results are written in batches, too.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use finalizer::clock::SystemClock;
use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::{Mutex as Lock, mpsc};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::Arguments;
use super::plain::{BATCH, COMMITTERS, POSTS, Row, insert, post};

const PREFETCH: u16 = 1_000;

/// A session and the body that tells of it.
type Owed = (Uuid, String);

const PENDING: &str = "
SELECT session_id, body
FROM deliveries
JOIN sessions USING (session_id)
WHERE state = 'pending'";

const MARK_DELIVERED: &str =
    "UPDATE deliveries SET state = 'delivered' WHERE session_id = ANY($1::uuid[])";

#[tokio::main]
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let arguments: Vec<String> = arguments.collect();
    let [database_url, amqp_url, webhook_url] = arguments.as_slice() else {
        anyhow::bail!("usage: pipeline DATABASE_URL AMQP_URL WEBHOOK_URL");
    };
    let connections = u32::try_from(COMMITTERS + 1)?;
    let pool = PgPoolOptions::new().max_connections(connections).connect(database_url).await?;
    let (owed, to_send) = mpsc::channel(10 * BATCH);
    let (delivered, to_mark) = mpsc::channel(10 * BATCH);
    let left: Vec<Owed> = sqlx::query_as(PENDING).fetch_all(&pool).await?;
    let parts = [
        tokio::spawn(deliver(webhook_url.parse()?, to_send, delivered)),
        tokio::spawn(mark(pool.clone(), to_mark)),
        tokio::spawn(consume(amqp_url.clone(), pool, left, owed)),
    ];
    try_join_all(parts.map(ended)).await?;
    Ok(())
}

async fn consume(
    amqp_url: String,
    pool: PgPool,
    left: Vec<Owed>,
    owed: mpsc::Sender<Owed>,
) -> anyhow::Result<()> {
    for one in left {
        owed.send(one).await?;
    }
    let runtime = async_rs::Runtime::tokio_current();
    let properties = lapin::ConnectionProperties::default();
    let connection =
        lapin::Connection::connect_with_runtime(&amqp_url, properties, runtime).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let (queue, options) = ("finalizer.events".into(), BasicConsumeOptions::default());
    let mut consumer =
        channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
    println!("consuming");
    let (come, to_commit) = mpsc::channel(usize::from(PREFETCH));
    let ledger = Ledger { channel, acknowledged: 0, committed: BTreeMap::new() };
    let shared =
        Arc::new(Shared { pool, to_commit: to_commit.into(), ledger: ledger.into(), owed });
    let committers = (0..COMMITTERS).map(|_| ended(tokio::spawn(shared.clone().commit())));
    let mut committers = std::pin::pin!(try_join_all(committers));
    loop {
        tokio::select! {
            ended = &mut committers => return ended.map(|_| ()),
            next = consumer.next() => come.send(next.context("no more is delivered")??).await?,
        }
    }
}

async fn ended(part: JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    part.await?
}

/// What those who commit share.
struct Shared {
    pool: PgPool,
    to_commit: Lock<mpsc::Receiver<Delivery>>,
    ledger: Lock<Ledger>,
    owed: mpsc::Sender<Owed>,
}

impl Shared {
    async fn commit(self: Arc<Self>) -> anyhow::Result<()> {
        let mut batch = Vec::with_capacity(BATCH);
        // One takes a batch whole, so its tags follow each other.
        while self.to_commit.lock().await.recv_many(&mut batch, BATCH).await > 0 {
            let now = SystemClock::machine_now();
            let mut rows = BTreeMap::new();
            for delivery in &batch {
                let row = Row::of(&delivery.data, now)?;
                rows.entry(row.session_id).or_insert(row);
            }
            let rows: Vec<Row> = rows.into_values().collect();
            let new = insert(&self.pool, &rows, now).await?;
            let tags = batch.iter().map(|delivery| delivery.delivery_tag);
            self.ledger.lock().await.acknowledge(tags).await?;
            batch.clear();
            self.hand_over(rows, new).await?;
        }
        Ok(())
    }

    async fn hand_over(&self, rows: Vec<Row>, new: Vec<Uuid>) -> anyhow::Result<()> {
        let bodies = rows.into_iter().map(|row| (row.session_id, row.body));
        let mut bodies: BTreeMap<Uuid, String> = bodies.collect();
        for session_id in new {
            let body = bodies.remove(&session_id).context("a session that was in the batch")?;
            self.owed.send((session_id, body)).await?;
        }
        Ok(())
    }
}

/// Up to which delivery all are committed: batches may end in another order than they began.
struct Ledger {
    channel: Channel,
    acknowledged: u64,
    committed: BTreeMap<u64, u64>,
}

impl Ledger {
    async fn acknowledge(&mut self, tags: impl Iterator<Item = u64> + Clone) -> anyhow::Result<()> {
        let first = tags.clone().min().context("a batch is not empty")?;
        self.committed.insert(first, tags.max().unwrap_or(first));
        let before = self.acknowledged;
        while let Some(last) = self.committed.remove(&(self.acknowledged + 1)) {
            self.acknowledged = last;
        }
        if self.acknowledged > before {
            let options = BasicAckOptions { multiple: true };
            self.channel.basic_ack(self.acknowledged, options).await?;
        }
        Ok(())
    }
}

async fn deliver(
    url: http::Uri,
    to_send: mpsc::Receiver<Owed>,
    delivered: mpsc::Sender<Uuid>,
) -> anyhow::Result<()> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let (client, url, delivered) = (&client, &url, &delivered);
    let owed = stream::unfold(to_send, |mut to_send: mpsc::Receiver<Owed>| async move {
        let next = to_send.recv().await?;
        Some((anyhow::Ok(next), to_send))
    });
    let send = |(session_id, body)| async move {
        if post(client, url, session_id, body, SystemClock::machine_now()).await? {
            delivered.send(session_id).await?;
        }
        Ok(())
    };
    owed.try_for_each_concurrent(POSTS, send).await
}

async fn mark(pool: PgPool, mut to_mark: mpsc::Receiver<Uuid>) -> anyhow::Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    while to_mark.recv_many(&mut batch, BATCH).await > 0 {
        sqlx::query(MARK_DELIVERED).bind(&batch).execute(&pool).await?;
        batch.clear();
    }
    Ok(())
}
