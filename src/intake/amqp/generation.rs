//! One generation: from a fresh connection to the first thing that goes wrong.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::topology::{self, DEAD_QUEUE, QUEUE};
use super::{AmqpSettings, BrokerError, PART, answered, connect};
use crate::crash::{self, Point};
use crate::finalize::Prepared;
use crate::health::Health;
use crate::intake::{Disposition, Intake, Patience, RawEvent, Ticket, dead_letter};

/// Dead letters are few, and each may be large.
const DEAD_PREFETCH: u16 = 10;

/// Consumes until something goes wrong, or until `shutdown`: then stops consuming, waits for what
/// is in hand, acknowledges it and closes.
pub(super) async fn run(
    settings: &AmqpSettings,
    intake: &Intake,
    health: &Health,
    shutdown: &CancellationToken,
) -> Result<(), BrokerError> {
    // Even a graceful cancel counts towards the delivery limit, so nothing is consumed before
    // the database has answered.
    intake.parts().store.now().await?;
    let connection = connect(&settings.url).await?;
    let events = channel(&connection, settings.prefetch).await?;
    if settings.is_declaring {
        topology::declare(&events).await?;
    } else {
        topology::require(&events).await?;
    }
    let dead_letters = channel(&connection, DEAD_PREFETCH).await?;
    let mut main = Lane::open(events, QUEUE, intake.clone()).await?;
    let mut dead = Lane::open(dead_letters, DEAD_QUEUE, intake.clone()).await?;
    health.well(PART);
    tracing::info!(amqp.queue = QUEUE, amqp.prefetch = settings.prefetch, "consuming");
    tokio::try_join!(main.run(shutdown), dead.run(shutdown))?;
    answered(connection.close(200, "done".into())).await
}

async fn channel(connection: &lapin::Connection, prefetch: u16) -> Result<Channel, BrokerError> {
    let channel = answered(connection.create_channel()).await?;
    answered(channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
    Ok(channel)
}

/// One queue's consumer, with the deliveries it brought.
struct Lane {
    queue: &'static str,
    channel: Channel,
    consumer: Consumer,
    intake: Intake,
    ledger: Ledger,
    source: Arc<str>,
    answers: mpsc::UnboundedSender<(u64, Disposition)>,
    answered: mpsc::UnboundedReceiver<(u64, Disposition)>,
}

impl Lane {
    async fn open(
        channel: Channel,
        queue: &'static str,
        intake: Intake,
    ) -> Result<Self, BrokerError> {
        let options = BasicConsumeOptions::default();
        let tag = "".into();
        let consume = channel.basic_consume(queue.into(), tag, options, FieldTable::default());
        let consumer = answered(consume).await?;
        let (answers, answered) = mpsc::unbounded_channel();
        let (ledger, source) = (Ledger::default(), format!("amqp:{queue}").into());
        Ok(Self { queue, channel, consumer, intake, ledger, source, answers, answered })
    }

    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), BrokerError> {
        loop {
            tokio::select! {
                delivery = self.consumer.next() => {
                    let delivery = delivery.ok_or(BrokerError::Ended)??;
                    crash::point(Point::AfterReceive);
                    #[cfg(feature = "crash-points")]
                    if crash::has(crash::Defect::AcknowledgeBeforeCommit) {
                        let once = BasicAckOptions::default();
                        answered(self.channel.basic_ack(delivery.delivery_tag, once)).await?;
                    }
                    if !self.take(delivery).await {
                        return self.finish().await;
                    }
                }
                Some((tag, disposition)) = self.answered.recv() => {
                    self.settle(tag, &disposition);
                    self.acknowledge().await?;
                }
                () = shutdown.cancelled() => return self.finish().await,
            }
        }
    }

    /// Puts a delivery on its way; `false` when intake is closed.
    async fn take(&mut self, delivery: Delivery) -> bool {
        let token = delivery.delivery_tag;
        self.ledger.arrived(token);
        let prepared = self.prepare(delivery);
        let (patience, answers) = (Patience::Wait, self.answers.clone());
        self.intake.submit(Ticket { prepared, patience, token, answers }).await
    }

    fn prepare(&self, delivery: Delivery) -> Prepared {
        let event = RawEvent { bytes: Bytes::from(delivery.data), source: self.source.clone() };
        if self.queue != DEAD_QUEUE {
            return self.intake.prepare(event);
        }
        let headers = delivery.properties.headers().as_ref();
        let reason = headers.and_then(|headers| headers.inner().get("x-first-death-reason"));
        let reason = match reason {
            Some(AMQPValue::LongString(reason)) => reason.to_string(),
            _ => "no reason given".to_owned(),
        };
        dead_letter(event, &reason, self.intake.parts().clock.now())
    }

    /// Notes an answer, and all others that are there.
    fn settle(&mut self, tag: u64, disposition: &Disposition) {
        self.note(tag, disposition);
        while let Ok((tag, disposition)) = self.answered.try_recv() {
            self.note(tag, &disposition);
        }
    }

    fn note(&mut self, tag: u64, disposition: &Disposition) {
        // `Retry` comes only at shutdown: the broker keeps the message.
        if *disposition != Disposition::Retry {
            self.ledger.committed(tag);
        }
    }

    async fn acknowledge(&mut self) -> Result<(), BrokerError> {
        if let Some(tag) = self.ledger.acknowledge() {
            crash::point(Point::BeforeAcknowledge);
            #[cfg(feature = "crash-points")]
            if crash::has(crash::Defect::AcknowledgeBeforeCommit) {
                return Ok(());
            }
            answered(self.channel.basic_ack(tag, BasicAckOptions { multiple: true })).await?;
        }
        Ok(())
    }

    /// Takes no more, waits for what is in hand as long as anything of it may still be answered,
    /// and acknowledges it.
    async fn finish(&mut self) -> Result<(), BrokerError> {
        let tag = self.consumer.tag();
        answered(self.channel.basic_cancel(tag, BasicCancelOptions::default())).await?;
        let deadline = tokio::time::Instant::now() + super::ANSWER_WITHIN;
        while !self.ledger.is_empty() {
            match tokio::time::timeout_at(deadline, self.answered.recv()).await {
                Ok(Some((_, Disposition::Retry)) | None) | Err(_) => break,
                Ok(Some((tag, disposition))) => self.settle(tag, &disposition),
            }
            self.acknowledge().await?;
        }
        self.acknowledge().await
    }
}
