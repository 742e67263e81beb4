//! The neutral form: messages of workers that are not `LiveKit`'s.

use serde::Deserialize;

use super::elements::{Element, Selective, pointer_to, read_list};
use super::members::missing;
use super::scalar::{Name, Time};
use super::{Message, Rejection, Role, Text};

/// `{id?, role, text, started_at?, ended_at?, interrupted?}`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct NeutralMessage<'a> {
    #[serde(borrow)]
    role: Option<Text<'a>>,
    id: Option<Name<'a>>,
    text: Option<Text<'a>>,
    started_at: Option<Time>,
    ended_at: Option<Time>,
    interrupted: Option<bool>,
}

impl<'a> Selective<'a> for NeutralMessage<'a> {
    const TELLING: &'static [&'static str] = &["role"];

    fn is_kept(&self) -> bool {
        self.speaker().is_some()
    }
}

impl NeutralMessage<'_> {
    fn speaker(&self) -> Option<Role> {
        Role::parse(self.role.as_ref()?.as_str())
    }

    fn is_recognised(&self) -> bool {
        self.role.as_ref().is_some_and(|role| Role::is_known(role.as_str()))
    }
}

/// No message has a role that we know: this is no call in which nobody spoke.
fn unrecognised(messages: &[NeutralMessage<'_>], list: &str) -> Rejection {
    match messages.iter().position(|message| message.role.is_none()) {
        Some(index) => missing_role(list, index),
        None => Rejection::invalid(
            list,
            "Expected messages with the role `user` or `assistant`, found none with a role that \
             is known: spell the roles so.",
        ),
    }
}

fn missing_role(list: &str, index: usize) -> Rejection {
    missing(format!("{}/role", pointer_to(list, index)), "`user`, `assistant` or another role")
}

/// The messages of those who speak. `list` is the pointer to the list.
pub(super) fn read_messages<'a, M: Element<NeutralMessage<'a>>>(
    messages: Vec<M>,
    list: &str,
) -> Result<Vec<Message<'a>>, Rejection> {
    let messages = read_list(messages, list)?;
    if !messages.is_empty() && !messages.iter().any(NeutralMessage::is_recognised) {
        return Err(unrecognised(&messages, list));
    }
    let mut kept = Vec::with_capacity(messages.len());
    for (index, message) in messages.into_iter().enumerate() {
        let at = |field: &str| format!("{}/{field}", pointer_to(list, index));
        if message.role.is_none() {
            return Err(missing_role(list, index));
        }
        let Some(role) = message.speaker() else { continue };
        let text = message.text.ok_or_else(|| missing(at("text"), "a string"))?;
        kept.push(Message {
            id: message.id.and_then(Name::unless_empty),
            role,
            texts: vec![text],
            audio_transcripts: Vec::new(),
            interrupted: message.interrupted.unwrap_or(false),
            created_at: None,
            started_speaking_at: message.started_at.map(|time| time.0),
            stopped_speaking_at: message.ended_at.map(|time| time.0),
            voice: None,
        });
    }
    Ok(kept)
}
