//! Exchange, queue and dead letters, as this release declares them.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use super::{BrokerError, answered};

/// Workers publish here; the routing key is the event's type.
pub(super) const EXCHANGE: &str = "voice.events";
/// Every event.
pub(in crate::intake) const QUEUE: &str = "finalizer.events";
/// Events that were handed out too often.
pub(in crate::intake) const DEAD_QUEUE: &str = "finalizer.events.dead";
/// How often a message may be handed out before it is dead. On RabbitMQ 3 a lost connection
/// counts too, so it leaves room for a worker that restarts a few times.
const DELIVERY_LIMIT: i64 = 20;

/// Makes everything, or finds it as it should be.
pub(super) async fn declare(channel: &Channel) -> Result<(), BrokerError> {
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let none = FieldTable::default;
    refused(
        answered(channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, durable, none()))
            .await,
    )?;
    queue(channel, DEAD_QUEUE, &[("x-queue-type", text("quorum"))]).await?;
    let arguments = [
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(DEAD_QUEUE)),
        // At least once needs reject-publish: nothing is dropped to make room.
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ];
    queue(channel, QUEUE, &arguments).await?;
    let bind = QueueBindOptions::default();
    answered(channel.queue_bind(QUEUE.into(), EXCHANGE.into(), "#".into(), bind, none())).await
}

/// Finds the queues, whatever their arguments.
pub(super) async fn require(channel: &Channel) -> Result<(), BrokerError> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    for name in [QUEUE, DEAD_QUEUE] {
        answered(channel.queue_declare(name.into(), passive, FieldTable::default())).await?;
    }
    Ok(())
}

/// How many messages wait in a queue, not handed out to anybody.
pub(super) async fn waiting(channel: &Channel, queue: &str) -> Result<u32, BrokerError> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declare = channel.queue_declare(queue.into(), passive, FieldTable::default());
    Ok(answered(declare).await?.message_count())
}

async fn queue(
    channel: &Channel,
    name: &str,
    arguments: &[(&str, AMQPValue)],
) -> Result<(), BrokerError> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut table = FieldTable::default();
    for (key, value) in arguments {
        table.insert((*key).into(), value.clone());
    }
    refused(answered(channel.queue_declare(name.into(), options, table)).await)?;
    Ok(())
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// 406 (precondition failed) is a queue or exchange with other arguments: no use trying again.
fn refused<T>(answer: Result<T, BrokerError>) -> Result<T, BrokerError> {
    match answer {
        Err(BrokerError::Away(error)) if is_precondition_failed(&error) => {
            Err(BrokerError::Refused(error.to_string()))
        }
        other => other,
    }
}

fn is_precondition_failed(error: &lapin::Error) -> bool {
    matches!(error.kind(), lapin::ErrorKind::ProtocolError(protocol) if protocol.get_id() == 406)
}
