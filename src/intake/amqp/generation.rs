//! One generation: from a fresh connection to the first thing that goes wrong.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::mark::{MARK_EVERY, Marks};
use super::topology::{self, DEAD_QUEUE, QUEUE};
use super::{AmqpSettings, BrokerError, PART, answered, connect};
use crate::crash::{self, Point};
use crate::finalize::Prepared;
use crate::health::Health;
use crate::intake::{
    Answers, Disposition, Intake, Patience, RawEvent, ReplayOrder, Replayer, Ticket, dead_letter,
    headers,
};
use crate::store::StoreError;

/// Dead letters are few, and each may be large.
const DEAD_PREFETCH: u16 = 10;

/// A dead letter that takes longer holds up the next ones no more.
const TRY_WITHIN: Duration = Duration::from_mins(1);

/// What is in hand at the end is waited for as long as the database may take for a batch.
const FINISH_WITHIN: Duration = Duration::from_secs(10);

/// Consumes until something goes wrong, or until `shutdown`: then stops consuming, waits for what
/// is in hand, acknowledges it and closes.
pub(super) async fn run(
    settings: &AmqpSettings,
    (intake, replayer): (&Intake, &Replayer),
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
    let mut main = Lane::open(events, QUEUE, intake.clone(), settings.hold_at_most).await?;
    let mut dead =
        Lane::open(dead_letters, DEAD_QUEUE, intake.clone(), settings.hold_at_most).await?;
    health.well(PART);
    tracing::info!(amqp.queue = QUEUE, amqp.prefetch = settings.prefetch, "consuming");
    dead.replayer = Some(replayer.clone());
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
    marks: Marks,
    source: Arc<str>,
    answers: Answers,
    answered: mpsc::UnboundedReceiver<Vec<(u64, Disposition)>>,
    /// When events last were answered, or there were none.
    answered_at: Instant,
    hold_at_most: Duration,
    /// Tries what came once more: dead letters.
    replayer: Option<Replayer>,
}

impl Lane {
    async fn open(
        channel: Channel,
        queue: &'static str,
        intake: Intake,
        hold_at_most: Duration,
    ) -> Result<Self, BrokerError> {
        let options = BasicConsumeOptions::default();
        let tag = "".into();
        let consume = channel.basic_consume(queue.into(), tag, options, FieldTable::default());
        let consumer = answered(consume).await?;
        let (answers, answered) = mpsc::unbounded_channel();
        let (ledger, source) = (Ledger::default(), format!("amqp:{queue}").into());
        Ok(Self {
            queue,
            channel,
            consumer,
            intake,
            ledger,
            marks: Marks::default(),
            source,
            answers,
            answered,
            answered_at: Instant::now(),
            hold_at_most,
            replayer: None,
        })
    }

    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), BrokerError> {
        let mut marking = tokio::time::interval(MARK_EVERY);
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
                    if !self.take(delivery).await? {
                        return self.finish().await;
                    }
                }
                Some(answers) = self.answered.recv() => self.settle(answers).await?,
                _ = marking.tick() => {
                    if !self.mark().await? {
                        return self.finish().await;
                    }
                }
                () = tokio::time::sleep_until(self.answered_at + self.hold_at_most) => {
                    if self.intake.is_paused() && !self.ledger.is_empty() {
                        return Err(BrokerError::Held);
                    }
                    self.answered_at = Instant::now();
                }
                () = shutdown.cancelled() => return self.finish().await,
            }
        }
    }

    /// Notes how much there is to be done until all is taken that is in the queue now; `false` when
    /// intake is closed. What the broker sent before its answer is here by then, and is taken first:
    /// it is not among what is left in the queue.
    async fn mark(&mut self) -> Result<bool, BrokerError> {
        let now = self.intake.parts().clock.now();
        let left = topology::waiting(&self.channel, self.queue).await?;
        let metrics = &self.intake.parts().metrics.broker;
        metrics.waiting.get_or_create(&[("queue", self.queue)]).set(left.into());
        if self.queue != QUEUE {
            return Ok(true);
        }
        while let Some(delivery) = self.consumer.next().now_or_never() {
            if !self.take(delivery.ok_or(BrokerError::Ended)??).await? {
                return Ok(false);
            }
        }
        self.marks.set(now, left);
        match left {
            // What was waiting may have gone to another consumer.
            0 if self.ledger.is_empty() => self.intake.progress.rest(),
            0 => {}
            _ => self.intake.progress.work(now),
        }
        self.note_reached();
        Ok(true)
    }

    fn note_reached(&mut self) {
        if let Some(at) = self.marks.reached() {
            self.intake.note_caught_up(at);
        }
    }

    /// Notes how many events are in hand, after one more came or some of them were done.
    fn note_in_hand(&self, is_step: bool) {
        if self.queue != QUEUE {
            return;
        }
        let (progress, parts) = (&self.intake.progress, self.intake.parts());
        let in_hand = self.ledger.len();
        parts.metrics.broker.in_hand.set(i64::try_from(in_hand).unwrap_or(i64::MAX));
        match (in_hand, is_step) {
            (0, _) => progress.rest(),
            (_, true) => progress.step(parts.clock.now()),
            (1, false) => progress.work(parts.clock.now()),
            (_, false) => {}
        }
    }

    /// Puts a delivery on its way; `false` when intake is closed.
    async fn take(&mut self, delivery: Delivery) -> Result<bool, BrokerError> {
        if self.ledger.is_empty() {
            self.answered_at = Instant::now();
        }
        let token = delivery.delivery_tag;
        self.ledger.arrived(token);
        self.note_in_hand(false);
        self.marks.arrived(token);
        let prepared = self.prepare(delivery);
        let (patience, answers) = (Patience::Wait, self.answers.clone());
        let ticket = Ticket { prepared, patience, token, answers };
        let deadline = self.answered_at + self.hold_at_most;
        let submitted = tokio::time::timeout_at(deadline, self.intake.submit(ticket)).await;
        submitted.map_err(|_| BrokerError::Held)
    }

    fn prepare(&self, delivery: Delivery) -> Prepared {
        let routed =
            (delivery.exchange.as_str(), delivery.routing_key.as_str(), delivery.redelivered);
        let event = RawEvent {
            headers: headers::of_message(routed, &delivery.properties),
            bytes: Bytes::from(delivery.data),
            source: self.source.clone(),
        };
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

    /// Tries a dead letter that is kept once more, alone: it may have been handed out too often only
    /// because of a neighbour. A mark of the attempt is committed before it, so that one which takes
    /// the process with it is never tried again by itself.
    async fn try_once_more(&self, disposition: &Disposition) -> Result<(), StoreError> {
        let Disposition::Rejected { failure_id, .. } = disposition else { return Ok(()) };
        let Some(replayer) = &self.replayer else { return Ok(()) };
        let order = ReplayOrder {
            by: "finalizer".into(),
            is_superseding: false,
            instead: None,
            is_named: false,
        };
        match tokio::time::timeout(TRY_WITHIN, replayer.replay(*failure_id, order)).await {
            Ok(Ok(Ok(_) | Err(_))) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => tracing::error!(failure.id = %failure_id, "a dead letter hangs"),
        }
        Ok(())
    }

    /// Notes answers, and acknowledges what they are the last ones for. Each dead letter is tried, and
    /// done with, before the next.
    async fn settle(&mut self, answers: Vec<(u64, Disposition)>) -> Result<(), BrokerError> {
        for (tag, disposition) in answers {
            if self.replayer.is_some() {
                self.try_once_more(&disposition).await?;
                self.note(tag, &disposition);
                self.acknowledge().await?;
            } else {
                self.note(tag, &disposition);
            }
        }
        self.answered_at = Instant::now();
        // Not only what is acknowledged is done: one event may keep back the tags behind it.
        self.note_in_hand(true);
        self.acknowledge().await
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
            self.marks.acknowledged(tag);
            self.note_in_hand(true);
            self.note_reached();
        }
        Ok(())
    }

    /// Takes no more, waits for what is in hand as long as anything of it may still be answered,
    /// and acknowledges it.
    async fn finish(&mut self) -> Result<(), BrokerError> {
        let tag = self.consumer.tag();
        answered(self.channel.basic_cancel(tag, BasicCancelOptions::default())).await?;
        let deadline = Instant::now() + FINISH_WITHIN;
        while !self.ledger.is_empty() {
            let answers = tokio::time::timeout_at(deadline, self.answered.recv()).await;
            let Ok(Some(answers)) = answers else { break };
            let is_over = answers.iter().any(|(_, answer)| *answer == Disposition::Retry);
            match tokio::time::timeout_at(deadline, self.settle(answers)).await {
                Ok(Ok(())) if !is_over => {}
                // A dead letter that cannot be tried in time is left to the broker.
                Ok(Ok(()) | Err(BrokerError::Store(_))) | Err(_) => break,
                Ok(Err(error)) => return Err(error),
            }
        }
        self.acknowledge().await
    }
}
