//! A subscriber's URL, and which messages it hears of.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::message::{EventType, PayloadKind};

/// A subscriber's address.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Its id.
    pub endpoint_id: Uuid,
    /// Whose sessions it hears of; `None`: everyone's.
    pub owner: Option<i64>,
    /// Only this tenant's.
    pub tenant_id: Option<String>,
    /// Only this character's.
    pub character_slug: Option<String>,
    /// Only these types; empty: all.
    pub event_types: Vec<EventType>,
    /// How much its bodies carry.
    pub payload: PayloadKind,
    /// Where to POST.
    pub url: String,
    /// The signing secret, sealed with the installation's key.
    pub sealed_secret: Vec<u8>,
    /// Set when it was disabled, with the reason.
    pub disabled: Option<(DateTime<Utc>, String)>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl Endpoint {
    /// Whether this endpoint is to be told `event_type` of a session of this owner, tenant and
    /// character. Says nothing of whether it is enabled.
    pub fn hears(&self, event_type: EventType, owner: i64, tenant: &str, character: &str) -> bool {
        self.owner.is_none_or(|wanted| wanted == owner)
            && self.tenant_id.as_deref().is_none_or(|wanted| wanted == tenant)
            && self.character_slug.as_deref().is_none_or(|wanted| wanted == character)
            && (self.event_types.is_empty() || self.event_types.contains(&event_type))
    }
}
