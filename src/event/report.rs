//! `LiveKit`'s session report and chat history, Python SDK 1.3 to 1.8.9 and agents-js.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::elements::{Element, Selective, read_list};
use super::members::missing;
use super::scalar::{MaybeText, Milliseconds, Name, Object, Time};
use super::{Message, Model, Rejection, Role, Text};

/// `ctx.make_session_report().to_dict()`, cut to what we use. `I` is an item, `U` a usage entry.
#[derive(Debug, Deserialize)]
pub(super) struct Report<'a, I, U> {
    #[serde(borrow)]
    pub(super) room: Option<Name<'a>>,
    pub(super) room_id: Option<Name<'a>>,
    pub(super) chat_history: Option<Object<History<I>>>,
    pub(super) timestamp: Option<Time>,
    pub(super) usage: Option<Vec<U>>,
    pub(super) duration_ms: Option<Milliseconds>,
    pub(super) close_reason: Option<Name<'a>>,
}

/// `history.to_dict(exclude_timestamp=False)`.
#[derive(Debug, Deserialize)]
pub(super) struct History<I> {
    items: Option<Vec<I>>,
}

/// An item of a history: a message, or something that is not for us.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Item<'a> {
    #[serde(rename = "type", default)]
    kind: ItemKind,
    #[serde(default)]
    role: ItemRole,
    #[serde(borrow)]
    id: Option<Name<'a>>,
    content: Option<Content<'a>>,
    interrupted: Option<bool>,
    created_at: Option<Time>,
    metrics: Option<Object<Metrics<'a>>>,
}

/// An item's `type`.
#[derive(Debug, Default, PartialEq)]
enum ItemKind {
    /// None that is a string, or an empty one.
    #[default]
    None,
    Message,
    Other,
}

/// An item's `role`.
#[derive(Debug, Default)]
enum ItemRole {
    /// None that we know.
    #[default]
    None,
    Speaker(Role),
    /// Of those who do not speak.
    Other,
}

#[derive(Debug, Default, Deserialize)]
struct Metrics<'a> {
    started_speaking_at: Option<Time>,
    stopped_speaking_at: Option<Time>,
    #[serde(borrow)]
    tts_metadata: Option<Object<ModelMetadata<'a>>>,
}

#[derive(Debug, Deserialize)]
struct ModelMetadata<'a> {
    #[serde(borrow)]
    model_name: Option<Name<'a>>,
    model_provider: Option<Name<'a>>,
}

impl<'a> Selective<'a> for Item<'a> {
    const TELLING: &'static [&'static str] = &["type", "role"];

    fn is_kept(&self) -> bool {
        self.speaker().is_some()
    }
}

impl<'a> Item<'a> {
    /// Who speaks, if this is a message of somebody who speaks.
    fn speaker(&self) -> Option<Role> {
        match (&self.kind, &self.role) {
            (ItemKind::Message, ItemRole::Speaker(role)) => Some(*role),
            _ => None,
        }
    }

    /// It has the form of an item, whether or not it is for us. Later releases may have other
    /// types of items; other roles would be other forms of what we know.
    fn is_recognised(&self) -> bool {
        match self.kind {
            ItemKind::None => false,
            ItemKind::Message => !matches!(self.role, ItemRole::None),
            ItemKind::Other => true,
        }
    }

    fn into_message(self) -> Option<Message<'a>> {
        let role = self.speaker()?;
        let content = self.content.unwrap_or_default();
        let metrics = self.metrics.map(|metrics| metrics.0).unwrap_or_default();
        Some(Message {
            id: self.id.and_then(Name::unless_empty),
            role,
            texts: content.texts,
            audio_transcripts: content.audio_transcripts,
            interrupted: self.interrupted.unwrap_or(false),
            created_at: self.created_at.map(|time| time.0),
            started_speaking_at: metrics.started_speaking_at.map(|time| time.0),
            stopped_speaking_at: metrics.stopped_speaking_at.map(|time| time.0),
            voice: metrics.tts_metadata.map(|metadata| metadata.0.into_model()),
        })
    }
}

impl<'de> Deserialize<'de> for ItemKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = MaybeText::deserialize(deserializer)?;
        Ok(match name.as_str() {
            "" => Self::None,
            "message" => Self::Message,
            _ => Self::Other,
        })
    }
}

impl<'de> Deserialize<'de> for ItemRole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = MaybeText::deserialize(deserializer)?;
        Ok(match Role::parse(name.as_str()) {
            Some(role) => Self::Speaker(role),
            None if Role::is_known(name.as_str()) => Self::Other,
            None => Self::None,
        })
    }
}

impl<'a> ModelMetadata<'a> {
    fn into_model(self) -> Model<'a> {
        Model {
            provider: self.model_provider.map(|name| name.0).unwrap_or_default(),
            model: self.model_name.map(|name| name.0).unwrap_or_default(),
        }
    }
}

impl<I> History<I> {
    /// The messages of those who speak. `pointer` leads to the history.
    pub(super) fn into_messages<'a>(self, pointer: &str) -> Result<Vec<Message<'a>>, Rejection>
    where
        I: Element<Item<'a>>,
    {
        let list = format!("{pointer}/items");
        let Some(items) = self.items else { return Err(missing(list, "an array of items")) };
        let items = read_list(items, &list)?;
        if !items.is_empty() && !items.iter().any(Item::is_recognised) {
            return Err(Rejection::invalid(
                list,
                "Expected items with a `type`, messages with a `role` such as `user`, found none: \
                 send the history as `to_dict(exclude_timestamp=False)` makes it, not as \
                 Protobuf's JSON.",
            ));
        }
        Ok(items.into_iter().filter_map(Item::into_message).collect())
    }
}

/// The report's `close_reason` in the words of the SDK's events: `CR_USER_INITIATED` is
/// `user_initiated`.
pub(super) fn close_reason(reason: Text<'_>) -> Text<'_> {
    match reason.as_str().strip_prefix("CR_") {
        Some(name) => Text::from(name.to_ascii_lowercase()),
        None => reason,
    }
}

/// `content`: a string, or a list of parts.
#[derive(Debug, Default)]
struct Content<'a> {
    texts: Vec<Text<'a>>,
    audio_transcripts: Vec<Text<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of parts or a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Content { texts: vec![Text::from(text)], ..Content::default() })
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Content { texts: vec![Text::from(text.to_owned())], ..Content::default() })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        let mut content = Content::default();
        while let Some(part) = parts.next_element()? {
            match part {
                Part::Text(text) => content.texts.push(text),
                Part::AudioTranscript(text) => content.audio_transcripts.push(text),
                Part::Other => {}
            }
        }
        Ok(content)
    }
}

/// One part of a message's content. Images, audio and whatever comes later are not for us.
enum Part<'a> {
    Text(Text<'a>),
    AudioTranscript(Text<'a>),
    Other,
}

#[derive(Deserialize)]
struct PartObject<'a> {
    #[serde(rename = "type", default, borrow)]
    kind: MaybeText<'a>,
    #[serde(default)]
    transcript: MaybeText<'a>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Part<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartVisitor)
    }
}

struct PartVisitor;

impl<'de> Visitor<'de> for PartVisitor {
    type Value = Part<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a part")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Part::Text(Text::from(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Part::Text(Text::from(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let part = PartObject::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
        let is_audio = part.kind.as_str() == "audio_content";
        Ok(part.transcript.0.filter(|_| is_audio).map_or(Part::Other, Part::AudioTranscript))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
        Ok(Part::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Part::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Part::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Part::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Part::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Part::Other)
    }
}
