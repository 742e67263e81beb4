//! Publishing events, as a voice worker does: persistent, with confirms, `mandatory`.

use std::collections::VecDeque;

use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, PublisherConfirm};
use serde::Deserialize;

use super::topology::{self, EXCHANGE};
use super::{AmqpSettings, BrokerError, answered, connect};
use crate::intake::RawEvent;

/// Publishes that may wait for their confirm.
const WINDOW: usize = 1_000;

/// An event that the broker did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconfirmed {
    /// Where it came from.
    pub source: String,
    /// Why.
    pub reason: String,
}

/// A connection to publish on.
pub struct Publisher {
    connection: Connection,
    channel: Channel,
    waiting: VecDeque<(RawEvent, PublisherConfirm)>,
}

/// What routes and names an event.
#[derive(Deserialize, Default)]
struct Label {
    #[serde(rename = "type")]
    event_type: Option<String>,
    event_id: Option<String>,
}

impl Publisher {
    /// Connects, and makes sure that there is a queue for what is published.
    pub async fn connect(settings: &AmqpSettings) -> Result<Self, BrokerError> {
        let connection = connect(&settings.url).await?;
        let channel = answered(connection.create_channel()).await?;
        if settings.is_declaring {
            topology::declare(&channel).await?;
        }
        answered(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self { connection, channel, waiting: VecDeque::new() })
    }

    /// Sends an event. What the broker did not take of the events before it is returned.
    pub async fn publish(&mut self, event: RawEvent) -> Result<Vec<Unconfirmed>, BrokerError> {
        // What cannot be labelled is published all the same: it will be a failure there.
        let label: Label = serde_json::from_slice(&event.bytes).unwrap_or_default();
        let event_type = label.event_type.unwrap_or_else(|| "unknown".to_owned());
        // Short strings of AMQP hold 255 bytes.
        let routing_key = event_type.get(..255.min(event_type.len())).unwrap_or("unknown");
        let mut properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_type(routing_key.into());
        if let Some(event_id) = label.event_id.filter(|id| id.len() <= 255) {
            properties = properties.with_message_id(event_id.into());
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, key) = (EXCHANGE.into(), routing_key.into());
        let publish = self.channel.basic_publish(exchange, key, options, &event.bytes, properties);
        let confirm = answered(publish).await?;
        self.waiting.push_back((event, confirm));
        let mut refused = Vec::new();
        while self.waiting.len() >= WINDOW {
            refused.extend(self.confirm_one().await?);
        }
        Ok(refused)
    }

    /// Waits for all confirms and closes.
    pub async fn finish(mut self) -> Result<Vec<Unconfirmed>, BrokerError> {
        let mut refused = Vec::new();
        while !self.waiting.is_empty() {
            refused.extend(self.confirm_one().await?);
        }
        answered(self.connection.close(200, "done".into())).await?;
        Ok(refused)
    }

    async fn confirm_one(&mut self) -> Result<Option<Unconfirmed>, BrokerError> {
        let Some((event, confirm)) = self.waiting.pop_front() else { return Ok(None) };
        let reason = match answered(confirm).await? {
            Confirmation::Ack(None) => return Ok(None),
            // An unroutable message is acknowledged too, with itself in hand.
            Confirmation::Ack(Some(returned)) => unroutable(&returned),
            Confirmation::Nack(_) => "the broker refused it (is the queue full?)".to_owned(),
            Confirmation::NotRequested => "the broker was not asked to confirm it".to_owned(),
        };
        Ok(Some(Unconfirmed { source: event.source.to_string(), reason }))
    }
}

fn unroutable(returned: &BasicReturnMessage) -> String {
    format!("no queue takes it ({} {})", returned.reply_code, returned.reply_text)
}
