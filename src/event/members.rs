//! The slow path's tools: an object as its members, JSON pointers, and serde's errors turned into
//! sentences that repeat nothing of the input.

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_path_to_error::{Path, Segment};

use super::{FailureCode, Rejection, Text};

/// The members of a JSON object in their order, values unread.
#[derive(Debug)]
pub(super) struct Members<'a>(pub(super) Vec<(Text<'a>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The members of `json`, if it is an object.
    pub(super) fn of(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// The members before the place where `json` is broken or cut off.
    pub(super) fn before_error(json: &'a str) -> Self {
        let mut members = Vec::new();
        let mut deserializer = serde_json::Deserializer::from_str(json);
        // What is wrong is known already; what came before it is wanted.
        let _ = deserializer.deserialize_map(Collector(&mut members));
        Self(members)
    }

    /// The first member of that name.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(member, _)| member.as_str() == name).map(|(_, value)| *value)
    }

    /// The first member of that name, if it is a string.
    pub(super) fn text(&self, name: &str) -> Option<Text<'a>> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    /// The first member of each of these names, if it is a string.
    pub(super) fn first_texts(&self, names: &[&'static str]) -> Self {
        let found = names.iter().filter_map(|name| Some((Text::from(*name), self.get(name)?)));
        Self(found.filter(|(_, value)| value.get().starts_with('"')).collect())
    }

    /// Reads the members that `is_kept` names as a `T`, as if there were no others. `pointer`
    /// leads to this object.
    pub(super) fn read<T: Deserialize<'a>>(
        &self,
        pointer: &str,
        is_kept: impl Fn(&str) -> bool,
    ) -> Result<T, Rejection> {
        let kept = self
            .0
            .iter()
            .filter(|(name, _)| is_kept(name.as_str()))
            .map(|(name, value)| (name.as_str(), *value));
        serde_path_to_error::deserialize(MapDeserializer::new(kept))
            .map_err(|error| rejection(pointer, &error))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut members = Vec::new();
        deserializer.deserialize_map(Collector(&mut members))?;
        Ok(Self(members))
    }
}

struct Collector<'c, 'a>(&'c mut Vec<(Text<'a>, &'a RawValue)>);

impl<'de> Visitor<'de> for Collector<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(member) = map.next_entry()? {
            self.0.push(member);
        }
        Ok(())
    }
}

/// Reads a value as a `T`. `pointer` leads to the value.
pub(super) fn read_value<'a, T: Deserialize<'a>>(
    json: &'a str,
    pointer: &str,
) -> Result<T, Rejection> {
    // Where an error is costs as much to follow as the reading: it is asked for if there is one.
    if let Ok(value) = serde_json::from_str(json) {
        return Ok(value);
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| rejection(pointer, &error))
}

/// A required member that is not there.
pub(super) fn missing(pointer: impl Into<String>, expected: &str) -> Rejection {
    Rejection::invalid(pointer, format!("Expected {expected}, found nothing."))
}

/// Appends a reference token (RFC 6901) to a pointer.
pub(super) fn push_token(pointer: &mut String, token: &str) {
    pointer.push('/');
    for character in token.chars() {
        match character {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            _ => pointer.push(character),
        }
    }
}

fn rejection(base: &str, error: &serde_path_to_error::Error<serde_json::Error>) -> Rejection {
    let mut pointer = base.to_owned();
    push_path(&mut pointer, error.path());
    let message = error.inner().to_string();
    let message = message.rfind(" at line ").map_or(&*message, |end| &message[..end]);
    if let Some(field) = quoted(message, "duplicate field `") {
        push_token(&mut pointer, field);
        return Rejection::invalid(pointer, "Expected one field of this name, found several.");
    }
    Rejection::at(FailureCode::InvalidEvent, pointer, sentence(message))
}

fn push_path(pointer: &mut String, path: &Path) {
    for segment in path {
        match segment {
            Segment::Seq { index } => push_token(pointer, &index.to_string()),
            Segment::Map { key } | Segment::Enum { variant: key } => push_token(pointer, key),
            Segment::Unknown => {}
        }
    }
}

fn quoted<'m>(message: &'m str, start: &str) -> Option<&'m str> {
    message.strip_prefix(start)?.strip_suffix('`')
}

/// A sentence for one of serde's messages or of our own (`expected …`). Serde's own quote the
/// value they found, which may be a line of the transcript: only its kind is said.
fn sentence(message: &str) -> String {
    if let Some(ours) = message.strip_prefix("expected ") {
        return format!("Expected {ours}.");
    }
    let found = ["invalid type: ", "invalid value: "]
        .iter()
        .find_map(|start| message.strip_prefix(start))
        .zip(message.rfind(", expected "));
    if let Some((found, expected)) = found {
        let expected = &message[expected + ", expected ".len()..];
        return format!("Expected {}, found {}.", plain(expected), kind_of_found(found));
    }
    if message.starts_with("recursion limit") {
        return "Expected a value that is nested less deeply.".to_owned();
    }
    if message.starts_with("number out of range") {
        return "Expected a number that fits into 64 bits.".to_owned();
    }
    "Expected a value of another form.".to_owned()
}

/// Serde's word for what was expected, in JSON's words.
fn plain(expected: &str) -> &str {
    match expected {
        "a sequence" => "an array",
        "i64" => "an integer of 64 bits",
        _ => expected,
    }
}

/// Serde's description of what it found, without the value.
fn kind_of_found(found: &str) -> &'static str {
    const KINDS: [(&str, &str); 7] = [
        ("null", "null"),
        ("boolean", "a boolean"),
        ("integer", "another integer"),
        ("floating point", "a number that is no such integer"),
        ("string", "a string"),
        ("sequence", "an array"),
        ("map", "an object"),
    ];
    KINDS
        .iter()
        .find(|(start, _)| found.starts_with(start))
        .map_or("another value", |(_, kind)| kind)
}
