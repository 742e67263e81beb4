//! How fast each part is alone, which the whole cannot be faster than; each prints how many seconds it
//! took. Events are of TURNS turns.
//!
//! `limits consume AMQP_URL COUNT` · `limits insert DATABASE_URL TURNS COUNT` (`pipeline.sql` makes
//! the tables) · `limits post URL COUNT` · `limits sign COUNT` · `limits decode TURNS COUNT`

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use finalizer::clock::{SystemClock, new_id};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use super::Arguments;
use super::calls::{Calls, Ids};
use super::plain::{BATCH, COMMITTERS, POSTS, Row, decode, insert, post, sign};

/// Bodies as the product sends them are about so long.
const BODY_BYTES: usize = 500;
/// Different events, so that none is read from a cache that has just seen it.
const EVENTS: usize = 500;

#[tokio::main]
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let arguments: Vec<String> = arguments.collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let took = match arguments.as_slice() {
        ["consume", url, count] => consume(url, count.parse()?).await?,
        ["insert", url, turns, count] => insert_all(url, turns.parse()?, count.parse()?).await?,
        ["post", url, count] => post_all(url.parse()?, count.parse()?).await?,
        ["sign", count] => sign_all(count.parse()?),
        ["decode", turns, count] => decode_all(turns.parse()?, count.parse()?)?,
        _ => bail!("usage: limits consume|insert|post|sign|decode, see the source"),
    };
    println!("{}", took.as_secs_f64());
    Ok(())
}

async fn consume(url: &str, count: usize) -> anyhow::Result<Duration> {
    let runtime = async_rs::Runtime::tokio_current();
    let properties = lapin::ConnectionProperties::default();
    let connection = lapin::Connection::connect_with_runtime(url, properties, runtime).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(1_000, BasicQosOptions::default()).await?;
    let (queue, options) = ("finalizer.events".into(), BasicConsumeOptions::default());
    let begin = Instant::now();
    let mut consumer =
        channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
    for number in 1..=count {
        let delivery = consumer.next().await.context("no more is delivered")??;
        if number % BATCH == 0 || number == count {
            let options = BasicAckOptions { multiple: true };
            channel.basic_ack(delivery.delivery_tag, options).await?;
        }
    }
    let took = begin.elapsed();
    // Any question on the channel is answered after what was acknowledged before it.
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    Ok(took)
}

async fn insert_all(url: &str, turns: usize, count: usize) -> anyhow::Result<Duration> {
    let pool =
        PgPoolOptions::new().max_connections(u32::try_from(COMMITTERS)?).connect(url).await?;
    let calls = Calls::of_turns(turns, Ids::Random)?;
    let now = SystemClock::machine_now();
    let mut batches = Vec::new();
    while batches.len() * BATCH < count {
        let rows = (0..BATCH).map(|_| Row::of(&calls.next().1, now));
        let rows = rows.map(|row| row.map(|row| (row.session_id, row)));
        let sorted: BTreeMap<_, Row> = rows.collect::<anyhow::Result<_>>()?;
        batches.push(sorted.into_values().collect::<Vec<Row>>());
    }
    let shares = batches.chunks(batches.len().div_ceil(COMMITTERS));
    let begin = Instant::now();
    let inserted = try_join_all(shares.map(|share| insert_some(&pool, share))).await?;
    let took = begin.elapsed();
    ensure!(inserted.iter().sum::<usize>() == batches.len() * BATCH, "some were not inserted");
    Ok(took)
}

async fn insert_some(pool: &PgPool, batches: &[Vec<Row>]) -> anyhow::Result<usize> {
    let mut inserted = 0;
    for rows in batches {
        inserted += insert(pool, rows, SystemClock::machine_now()).await?.len();
    }
    Ok(inserted)
}

async fn post_all(url: http::Uri, count: usize) -> anyhow::Result<Duration> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let body = "x".repeat(BODY_BYTES);
    let some = |first: usize| {
        let (client, url, body) = (client.clone(), url.clone(), body.clone());
        tokio::spawn(async move {
            for _ in (first..count).step_by(POSTS) {
                let now = SystemClock::machine_now();
                let is_taken = post(&client, &url, new_id(now), body.clone(), now).await?;
                ensure!(is_taken, "the receiver did not take a webhook");
            }
            anyhow::Ok(())
        })
    };
    let begin = Instant::now();
    for ended in try_join_all((0..POSTS).map(some)).await? {
        ended?;
    }
    Ok(begin.elapsed())
}

fn sign_all(count: usize) -> Duration {
    let now = SystemClock::machine_now();
    let (id, timestamp) = (new_id(now).to_string(), now.timestamp().to_string());
    let body = "x".repeat(BODY_BYTES);
    let begin = Instant::now();
    for _ in 0..count {
        black_box(sign(&id, &timestamp, black_box(body.as_bytes())));
    }
    begin.elapsed()
}

fn decode_all(turns: usize, count: usize) -> anyhow::Result<Duration> {
    let calls = Calls::of_turns(turns, Ids::Random)?;
    let events: Vec<_> = (0..EVENTS).map(|_| calls.next().1).collect();
    let begin = Instant::now();
    for event in events.iter().cycle().take(count) {
        black_box(decode(black_box(event))?);
    }
    Ok(begin.elapsed())
}
