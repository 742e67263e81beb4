//! Decoding: an event or a rejection that says where; the same for the same content.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use finalizer::event::{Digest, Event, FailureCode, Rejection, decode};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

type Decoded<'a> = Result<Event<'a>, Rejection>;

/// Deeper than anything that decode looks into.
const MAX_DEPTH: usize = 200;

/// Checks everything that is claimed of decoding these bytes.
pub(crate) fn check(bytes: &[u8]) {
    let decoded = decode(bytes);
    assert_eq!(decoded, decode(bytes), "the same bytes are the same event");
    if let Err(rejection) = &decoded {
        check_rejection(rejection, bytes);
        assert!(is_of_decode(rejection.code), "{rejection:?}");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    check_the_careful_way(text, &decoded);
    check_rewritten(text, &decoded);
}

/// What holds for every rejection, of decode or of the finalizer.
pub(crate) fn check_rejection(rejection: &Rejection, event: &[u8]) {
    let Rejection { code, pointer, message, .. } = rejection;
    assert!(message.ends_with('.') && message.len() < 400, "{rejection:?}");
    assert!(message.starts_with(char::is_uppercase), "{rejection:?}");
    assert_eq!(pointer.is_none(), *code == FailureCode::MalformedJson, "{rejection:?}");
    let text = std::str::from_utf8(event).ok();
    let Some((pointer, tree)) = pointer.as_deref().zip(text.and_then(tree)) else { return };
    let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
    assert!(tree.has(pointer) || tree.has(parent), "{rejection:?}");
}

fn is_of_decode(code: FailureCode) -> bool {
    matches!(
        code,
        FailureCode::MalformedJson
            | FailureCode::UnsupportedType
            | FailureCode::UnsupportedVersion
            | FailureCode::InvalidEvent
            | FailureCode::InvalidSessionId
    )
}

/// A lone surrogate in the name of a member that nobody reads sends decode the careful way, by a
/// repaired copy: the event is the same, and so is what is wrong with it.
fn check_the_careful_way(text: &str, decoded: &Decoded<'_>) {
    let is_space = |c: char| matches!(c, ' ' | '\n' | '\t' | '\r');
    let Some(rest) = text.trim_start_matches(is_space).strip_prefix('{') else { return };
    let comma = if rest.trim_start_matches(is_space).starts_with('}') { "" } else { "," };
    let marked = format!("{{\"\\ud800\":0{comma}{rest}");
    match (decoded, decode(marked.as_bytes())) {
        (Ok(one), Ok(other)) => assert_eq!(*one, other),
        (Err(one), Err(other)) => {
            assert_eq!((one.code, &one.pointer), (other.code, &other.pointer));
        }
        (one, other) => panic!("{one:?} is not {other:?}"),
    }
}

/// The order of members, white space and escapes say nothing.
fn check_rewritten(text: &str, decoded: &Decoded<'_>) {
    // Of two members of one name, it may be the first that counts.
    let Some(tree) = tree(text).filter(Tree::names_are_unique) else { return };
    let mut rewritten = String::new();
    tree.rewrite(&mut rewritten);
    match (decoded, decode(rewritten.as_bytes())) {
        (Ok(one), Ok(other)) => match (digest(one), digest(&other)) {
            (None, None) => assert_eq!(*one, other, "{rewritten}"),
            (one, other) => assert_eq!(one, other, "{rewritten}"),
        },
        (Err(_), Err(_)) => {}
        (one, other) => panic!("{one:?} is not {other:?}: {rewritten}"),
    }
}

fn digest(event: &Event<'_>) -> Option<Digest> {
    match event {
        Event::Started(started) => Some(started.digest),
        Event::Ended(ended) => Some(ended.digest),
        Event::Checkpoint(checkpoint) => Some(checkpoint.so_far.digest),
        Event::Room(_) | Event::Recording(_) => None,
    }
}

/// JSON as it was written: numbers digit for digit, members of one name side by side.
enum Tree<'a> {
    Object(Vec<(String, Tree<'a>)>),
    Array(Vec<Tree<'a>>),
    Text(String),
    Other(&'a str),
}

/// None for what is no JSON, nested too deeply, or has lone surrogates in it.
fn tree(text: &str) -> Option<Tree<'_>> {
    below(serde_json::from_str::<&RawValue>(text).ok()?.get(), MAX_DEPTH)
}

fn below(json: &str, depth: usize) -> Option<Tree<'_>> {
    let depth = depth.checked_sub(1)?;
    Some(match json.as_bytes().first()? {
        b'{' => {
            let Members(members) = serde_json::from_str(json).ok()?;
            let read =
                members.into_iter().map(|(name, value)| Some((name, below(value.get(), depth)?)));
            Tree::Object(read.collect::<Option<_>>()?)
        }
        b'[' => {
            let elements: Vec<&RawValue> = serde_json::from_str(json).ok()?;
            let read = elements.into_iter().map(|element| below(element.get(), depth));
            Tree::Array(read.collect::<Option<_>>()?)
        }
        b'"' => Tree::Text(serde_json::from_str(json).ok()?),
        _ => Tree::Other(json),
    })
}

impl Tree<'_> {
    /// Whether there is a value at the pointer.
    fn has(&self, pointer: &str) -> bool {
        let Some(rest) = pointer.strip_prefix('/') else { return pointer.is_empty() };
        let (token, rest) = match rest.find('/') {
            Some(end) => rest.split_at(end),
            None => (rest, ""),
        };
        let name = token.replace("~1", "/").replace("~0", "~");
        match self {
            Self::Object(members) => {
                members.iter().any(|(member, value)| *member == name && value.has(rest))
            }
            Self::Array(elements) => name
                .parse::<usize>()
                .is_ok_and(|index| elements.get(index).is_some_and(|element| element.has(rest))),
            Self::Text(_) | Self::Other(_) => false,
        }
    }

    fn names_are_unique(&self) -> bool {
        match self {
            Self::Object(members) => {
                let mut names = BTreeSet::new();
                members.iter().all(|(name, value)| names.insert(name) && value.names_are_unique())
            }
            Self::Array(elements) => elements.iter().all(Self::names_are_unique),
            Self::Text(_) | Self::Other(_) => true,
        }
    }

    /// Writes it with its members the other way round, more white space and other escapes.
    fn rewrite(&self, into: &mut String) {
        match self {
            Self::Object(members) => {
                into.push_str("{ ");
                for (index, (name, value)) in members.iter().rev().enumerate() {
                    into.push_str(if index == 0 { "" } else { "\n, " });
                    escape(name, into);
                    into.push_str(" :\t");
                    value.rewrite(into);
                }
                into.push_str(" }");
            }
            Self::Array(elements) => {
                into.push('[');
                for (index, element) in elements.iter().enumerate() {
                    into.push_str(if index == 0 { "\r\n" } else { " ," });
                    element.rewrite(into);
                }
                into.push(']');
            }
            Self::Text(text) => escape(text, into),
            Self::Other(json) => into.push_str(json),
        }
    }
}

/// A JSON string with every second character escaped by its number.
fn escape(text: &str, into: &mut String) {
    into.push('"');
    for (index, character) in text.chars().enumerate() {
        if index % 2 == 1 || matches!(character, '"' | '\\' | '\0'..='\x1f') {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(into, "\\u{unit:04x}").unwrap();
            }
        } else {
            into.push(character);
        }
    }
    into.push('"');
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}
