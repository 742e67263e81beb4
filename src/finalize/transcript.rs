//! Who said what, when: the ordered turns of a call.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use utoipa::ToSchema;

use super::summary::Seconds;
use crate::event::{Call, FailureCode, Json, Message, Rejection, Role, SourceKind, Text};

/// A turn may lie this much before the call's start (clocks differ) …
const EARLIEST: TimeDelta = TimeDelta::seconds(60);
/// … and this much after it. What lies further away was said in another call.
const LATEST: TimeDelta = TimeDelta::days(7);
/// How long after an interrupted turn's end a user may begin and still be who interrupted it.
const INTERRUPTION_SLACK_MS: i64 = 500;

/// One turn of the transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn<'a> {
    /// The item's id, if the publisher gave one.
    pub id: Option<&'a str>,
    /// Who speaks.
    pub role: Role,
    /// The exact text, cleaned as [`turns`] says.
    pub text: Cow<'a, str>,
    /// Milliseconds since the session began; never falls from turn to turn.
    pub start_ms: i64,
    /// When the speaker ended.
    pub end: Option<DateTime<Utc>>,
    /// The speaker was cut off.
    pub is_interrupted: bool,
}

/// The turns of a call, in order.
///
/// A text is its string parts joined with `\n` (the audio parts' transcripts if there is no
/// text), without U+0000 and, for assistants, without `<expr …>` tags, trimmed; what is empty
/// then is no turn. Copies of an item are one turn. A turn starts when its speaker began, else
/// when the item was made, never before the session; a turn without any time starts with the one
/// before it in source order (the first: with the first that has a time). Turns are sorted by
/// their start in milliseconds, those of equal start stay in source order.
///
/// # Errors
///
/// `untimed_turns` if no turn has a time; `invalid_event` at `/started_at` if a turn lies more
/// than 60 s before the session or 7 days after its start.
pub fn turns<'a>(call: &'a Call<'_>) -> Result<Vec<Turn<'a>>, Rejection> {
    turns_and_last_heard(call).map(|(turns, _)| turns)
}

/// The [`turns`] of a call, and the latest time that any of them is known by.
pub(super) fn turns_and_last_heard<'a>(
    call: &'a Call<'_>,
) -> Result<(Vec<Turn<'a>>, Option<DateTime<Utc>>), Rejection> {
    let spoken = spoken(call);
    let last_heard = spoken.iter().filter_map(|spoken| spoken.times.last()).max();
    let starts = starts(call, &spoken)?;
    let mut turns: Vec<Turn<'_>> = spoken
        .into_iter()
        .zip(starts)
        .map(|(spoken, start_ms)| Turn {
            id: spoken.id,
            role: spoken.role,
            text: spoken.text,
            start_ms,
            end: spoken.times.ended,
            is_interrupted: spoken.is_interrupted,
        })
        .collect();
    turns.sort_by_key(|turn| turn.start_ms);
    Ok((turns, last_heard))
}

/// `Assistant: …` / `User: …`, a line a turn. White space and line separators inside a turn
/// become one space, so that no turn can forge another's line.
pub fn transcript_text<'a>(turns: impl Iterator<Item = (Role, &'a str)>) -> String {
    let mut text = String::new();
    for (index, (role, said)) in turns.enumerate() {
        if index > 0 {
            text.push('\n');
        }
        text.push_str(match role {
            Role::User => "User:",
            Role::Assistant => "Assistant:",
        });
        for word in said.split(separates_words).filter(|word| !word.is_empty()) {
            text.push(' ');
            text.push_str(word);
        }
    }
    text
}

/// Unicode's white space (which U+0085, U+2028 and U+2029 belong to), and the ASCII separators
/// at which Python's `splitlines` breaks a line as well.
fn separates_words(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

/// What one of them said.
#[derive(ToSchema)]
#[schema(as = Turn)]
pub(super) struct Line<'a> {
    role: Role,
    /// The exact text, as heard.
    text: &'a str,
    /// Counts from 0.
    turn_index: usize,
    /// Seconds since the session began; never falls.
    ts: Seconds,
}

/// What a line needs beside its text, in bytes, unless that has escapes.
const BYTES_OF_A_LINE: usize = 64;

/// The turns as the API shows them: `[{"role", "text", "turn_index", "ts"}]`.
pub(super) fn transcript_json(turns: &[Turn<'_>]) -> String {
    let capacity = turns.iter().map(|turn| turn.text.len() + BYTES_OF_A_LINE).sum();
    let mut json = Json::with_capacity(capacity);
    json.list(turns.iter().enumerate(), |json, (turn_index, turn)| {
        let line =
            Line { role: turn.role, text: &turn.text, turn_index, ts: Seconds(turn.start_ms) };
        json.object(|json| line.write(json));
    });
    json.into_text()
}

impl Line<'_> {
    fn write(&self, json: &mut Json) {
        let Self { role, text, turn_index, ts: Seconds(milliseconds) } = self;
        json.member("role").raw(role.as_json());
        json.member("text").string(text);
        json.member("turn_index").integer(*turn_index);
        json.member("ts").thousandths(*milliseconds);
    }
}

/// How often the user spoke over the agent: interrupted assistant turns that a user's turn
/// follows at once. Hanging up interrupts a turn too, but nobody speaks then.
pub(super) fn count_interruptions(turns: &[Turn<'_>], started_at: DateTime<Utc>) -> usize {
    let is_interruption = |pair: &&[Turn<'_>]| {
        let [spoken, next] = pair else { return false };
        let end_ms = spoken.end.map(|end| since(started_at, end));
        spoken.role == Role::Assistant
            && spoken.is_interrupted
            && next.role == Role::User
            && end_ms.is_none_or(|end_ms| next.start_ms <= end_ms + INTERRUPTION_SLACK_MS)
    };
    turns.windows(2).filter(is_interruption).count()
}

/// Whole milliseconds from one time to another, rounded to the nearest.
pub(super) fn milliseconds(from: DateTime<Utc>, to: DateTime<Utc>) -> i64 {
    let span = to - from;
    // The years 0 to 9999 are less than 2^59 microseconds.
    let microseconds = span.num_microseconds().unwrap_or(i64::MAX - 500);
    (microseconds + 500).div_euclid(1000)
}

/// Milliseconds since the session's start, at least 0.
fn since(started_at: DateTime<Utc>, time: DateTime<Utc>) -> i64 {
    milliseconds(started_at, time).max(0)
}

/// A message that has become a turn, not yet placed in time.
struct Spoken<'a> {
    id: Option<&'a str>,
    role: Role,
    text: Cow<'a, str>,
    times: Times,
    is_interrupted: bool,
}

/// What is known of a message's time: when it was made, when its speaker began and ended.
#[derive(Clone, Copy)]
struct Times {
    made: Option<DateTime<Utc>>,
    began: Option<DateTime<Utc>>,
    ended: Option<DateTime<Utc>>,
}

impl Times {
    fn of(message: &Message<'_>) -> Self {
        Self {
            made: message.created_at,
            began: message.started_speaking_at,
            ended: message.stopped_speaking_at,
        }
    }

    fn has_speech(&self) -> bool {
        self.began.is_some() || self.ended.is_some()
    }

    fn start(&self) -> Option<DateTime<Utc>> {
        self.began.or(self.made)
    }

    fn last(&self) -> Option<DateTime<Utc>> {
        [self.made, self.began, self.ended].into_iter().flatten().max()
    }
}

impl<'a> Spoken<'a> {
    fn of(message: &'a Message<'_>) -> Self {
        Self {
            id: message.id.as_ref().map(Text::as_str).filter(|id| !id.is_empty()),
            role: message.role,
            text: clean_text(message),
            times: Times::of(message),
            is_interrupted: message.interrupted,
        }
    }

    /// Takes over what a later copy of the same item knows better. SDKs replace an item when
    /// more of it was heard, so a later text counts, with its speaker and its mark; the times
    /// stay, because a replaced item is stamped anew.
    fn absorb(&mut self, later: Self) {
        let is_better = later.times.has_speech() || self.times.start().is_none();
        if !self.times.has_speech() && is_better {
            self.times = later.times;
        }
        if !later.text.is_empty() {
            self.role = later.role;
            self.text = later.text;
            self.is_interrupted = later.is_interrupted;
        }
    }
}

/// The messages that became turns, copies folded, in source order.
fn spoken<'a>(call: &'a Call<'_>) -> Vec<Spoken<'a>> {
    let mut all: Vec<Spoken<'a>> = Vec::with_capacity(call.messages.len());
    let mut place_of_id: BTreeMap<&'a str, usize> = BTreeMap::new();
    for message in &call.messages {
        let later = Spoken::of(message);
        let place = later.id.map(|id| *place_of_id.entry(id).or_insert(all.len()));
        match place.and_then(|place| all.get_mut(place)) {
            Some(first) => first.absorb(later),
            None => all.push(later),
        }
    }
    all.retain(|spoken| !spoken.text.is_empty());
    if call.source == SourceKind::Messages { fold_equals(all) } else { all }
}

/// A Pipecat worker that listens to both of its user events reports every user turn twice, with
/// the same start. People who repeat themselves do so at another time.
fn fold_equals(all: Vec<Spoken<'_>>) -> Vec<Spoken<'_>> {
    let mut kept: Vec<Spoken<'_>> = Vec::with_capacity(all.len());
    let mut places: HashMap<(Role, Cow<'_, str>, DateTime<Utc>), usize> = HashMap::new();
    for spoken in all {
        let start = spoken.times.start().filter(|_| spoken.id.is_none());
        let Some(start) = start else {
            kept.push(spoken);
            continue;
        };
        let place = *places.entry((spoken.role, spoken.text.clone(), start)).or_insert(kept.len());
        match kept.get_mut(place) {
            Some(first) => {
                first.is_interrupted |= spoken.is_interrupted;
                let stop = &mut first.times.ended;
                *stop = stop.or(spoken.times.ended);
            }
            None => kept.push(spoken),
        }
    }
    kept
}

/// Where each turn starts, in milliseconds since the session did; in source order.
fn starts(call: &Call<'_>, spoken: &[Spoken<'_>]) -> Result<Vec<i64>, Rejection> {
    let mut known = Vec::with_capacity(spoken.len());
    for (index, turn) in spoken.iter().enumerate() {
        let start = reply_start(turn, spoken.get(index + 1)).or_else(|| turn.times.start());
        if let Some(start) = start {
            check_range(call.started_at, start)?;
        }
        known.push(start.map(|start| since(call.started_at, start)));
    }
    let first = known.iter().flatten().next().copied();
    if first.is_none() && !spoken.is_empty() {
        return Err(untimed(call.source));
    }
    let mut previous = first.unwrap_or(0);
    Ok(known
        .into_iter()
        .map(|start| {
            previous = start.unwrap_or(previous);
            previous
        })
        .collect())
}

/// Realtime models may deliver a user's transcript after the reply to it has begun. Such a
/// message is stamped too late; the reply's start is the closest known time of the question.
fn reply_start(turn: &Spoken<'_>, next: Option<&Spoken<'_>>) -> Option<DateTime<Utc>> {
    let next = next.filter(|next| next.role == Role::Assistant)?;
    let made = turn.times.made.filter(|_| turn.times.began.is_none())?;
    let reply = next.times.began?;
    let is_late = turn.role == Role::User && reply < made && next.times.made? < made;
    is_late.then_some(reply)
}

fn check_range(started_at: DateTime<Utc>, time: DateTime<Utc>) -> Result<(), Rejection> {
    let distance = time - started_at;
    if distance < -EARLIEST || distance > LATEST {
        return Err(Rejection::invalid(
            "/started_at",
            format!(
                "Expected turns from 60 seconds before to 7 days after started_at, found one at \
                 {}: send the time at which this very call began, in UTC.",
                time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
            ),
        ));
    }
    Ok(())
}

fn untimed(source: SourceKind) -> Rejection {
    let (pointer, what) = match source {
        SourceKind::LivekitSessionReport => {
            ("/report/chat_history/items", "send the report's chat history with its created_at")
        }
        SourceKind::LivekitHistory => {
            ("/history/items", "use history.to_dict(exclude_timestamp=False)")
        }
        SourceKind::Messages => ("/messages", "give each message its started_at"),
    };
    let message = format!("Expected turns with times to order them by, found none: {what}.");
    Rejection::at(FailureCode::UntimedTurns, pointer, message)
}

fn clean_text<'a>(message: &'a Message<'_>) -> Cow<'a, str> {
    let text = clean(message.role, &message.texts);
    if text.is_empty() { clean(message.role, &message.audio_transcripts) } else { text }
}

fn clean<'a>(role: Role, parts: &'a [Text<'_>]) -> Cow<'a, str> {
    let joined = match parts {
        [] => Cow::Borrowed(""),
        [one] => Cow::Borrowed(one.as_str()),
        _ => Cow::Owned(parts.iter().map(Text::as_str).collect::<Vec<_>>().join("\n")),
    };
    // First, so that what it held apart is seen as markup.
    let joined = if joined.contains('\0') { Cow::Owned(joined.replace('\0', "")) } else { joined };
    let heard = match role {
        Role::Assistant if joined.contains("expr") => Cow::Owned(without_markup(&joined)),
        Role::Assistant | Role::User => joined,
    };
    match heard {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
        Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
    }
}

/// Removes `<expr …/>`, `<expr …>` and `</expr>`: directions to a speech engine, never heard.
/// What stands between an opening and a closing tag is heard, and stays. A tag between two
/// spaces takes one with it.
fn without_markup(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        clean.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = markup_length(rest);
        if length == 0 {
            clean.push('<');
            rest = &rest[1..];
            continue;
        }
        rest = &rest[length..];
        if clean.ends_with(' ') && rest.starts_with(' ') {
            rest = &rest[1..];
        }
    }
    clean.push_str(rest);
    clean
}

/// The length of the tag that `text` begins with; 0 if that is none of ours.
fn markup_length(text: &str) -> usize {
    let name = text.strip_prefix("</").or_else(|| text.strip_prefix('<'));
    let Some(inside) = name.and_then(|name| name.strip_prefix("expr")) else { return 0 };
    // `<expression …>` is another engine's tag.
    if !inside.starts_with(|next: char| next.is_whitespace() || matches!(next, '/' | '>')) {
        return 0;
    }
    match inside.find(['<', '>']) {
        Some(end) if inside[end..].starts_with('>') => text.len() - inside.len() + end + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sample;
    use super::*;

    fn shown<'a>(turns: &'a [Turn<'_>]) -> Vec<(Role, &'a str, i64)> {
        turns.iter().map(|turn| (turn.role, &*turn.text, turn.start_ms)).collect()
    }

    use Role::{Assistant, User};

    #[test]
    fn a_turn_starts_when_its_speaker_began_else_when_it_was_made() {
        let mut call = sample::call();
        call.messages = vec![
            sample::message("a", Assistant, "Hi!").made(0.30).spoke(0.42, 2.1),
            sample::message("b", User, "Book a demo.").made(5.0).spoke(3.1805, 4.4),
            sample::message("c", Assistant, "Great").made(5.04),
        ];
        assert_eq!(
            shown(&turns(&call).unwrap()),
            [(Assistant, "Hi!", 420), (User, "Book a demo.", 3181), (Assistant, "Great", 5040)]
        );
    }

    #[test]
    fn turns_are_sorted_by_start_and_equal_starts_stay_in_source_order() {
        let mut call = sample::call();
        call.messages = vec![
            sample::message("a", Assistant, "later").made(8.0),
            sample::message("b", User, "first of two").made(7.5),
            sample::message("c", Assistant, "second of two").made(7.5),
            sample::message("d", User, "before the start").made(-1.0),
        ];
        assert_eq!(
            shown(&turns(&call).unwrap()),
            [
                (User, "before the start", 0),
                (User, "first of two", 7500),
                (Assistant, "second of two", 7500),
                (Assistant, "later", 8000)
            ]
        );
    }

    #[test]
    fn a_text_is_joined_cleaned_and_trimmed_but_otherwise_exact() {
        let cases: [(Role, &[&str], &[&str], &str); 11] = [
            (User, &["one", "two"], &[], "one\ntwo"),
            (User, &["", "  "], &["from the audio", "part"], "from the audio\npart"),
            (User, &["text"], &["audio"], "text"),
            (User, &["  a\0b \n"], &[], "ab"),
            (User, &["I typed <expr/> myself"], &[], "I typed <expr/> myself"),
            (Assistant, &["<expr type=\"laugh\"/>Ha, sure!"], &[], "Ha, sure!"),
            (Assistant, &["<ex\0pr type=\"laugh\"/>Ha"], &[], "Ha"),
            (Assistant, &["a <expr type=\"prosody\">b</expr> c"], &[], "a b c"),
            (Assistant, &["Right. <expr type=\"sound\"/> Anyway."], &[], "Right. Anyway."),
            (Assistant, &["<expression/> 1 < 2 </b>"], &[], "<expression/> 1 < 2 </b>"),
            (Assistant, &["cut <expr type=\"so"], &[], "cut <expr type=\"so"),
        ];
        for (role, texts, audio, expected) in cases {
            let mut message = sample::message("a", role, "").made(1.0);
            message.texts = texts.iter().map(|text| Text::from(*text)).collect();
            message.audio_transcripts = audio.iter().map(|text| Text::from(*text)).collect();
            let call = Call { messages: vec![message], ..sample::call() };
            let turns = turns(&call).unwrap();
            assert_eq!(turns.len(), 1, "{texts:?}");
            assert_eq!(turns[0].text, expected);
        }
    }

    #[test]
    fn a_message_without_text_is_no_turn() {
        let mut call = sample::call();
        call.messages = vec![
            sample::message("a", Assistant, " \n\t\u{a0}").made(1.0),
            sample::message("b", Assistant, "<expr type=\"sigh\"/>").made(2.0),
            sample::message("c", User, "\0").made(3.0),
            Message { texts: vec![], ..sample::message("d", User, "").made(4.0) },
        ];
        assert_eq!(turns(&call), Ok(vec![]));
    }

    #[test]
    fn the_same_item_twice_is_one_turn_with_the_last_text_in_the_first_place() {
        let mut call = sample::call();
        call.messages = vec![
            sample::message("a", User, "I want").made(5.0).spoke(3.18, 4.4),
            sample::message("b", Assistant, "between").made(3.18),
            sample::message("a", User, "I want a demo.").made(9.0).spoke(8.0, 8.5),
            sample::message("a", User, " ").made(10.0),
        ];
        assert_eq!(
            shown(&turns(&call).unwrap()),
            [(User, "I want a demo.", 3180), (Assistant, "between", 3180)]
        );
    }

    #[test]
    fn a_first_copy_without_speaking_times_takes_the_later_ones() {
        let mut call = sample::call();
        call.messages = vec![
            sample::message("a", User, "").made(5.0),
            sample::message("a", User, "hello").made(6.0).spoke(3.0, 4.0),
        ];
        assert_eq!(shown(&turns(&call).unwrap()), [(User, "hello", 3000)]);
    }

    #[test]
    fn a_first_copy_without_any_time_takes_the_later_ones() {
        let mut call = sample::call();
        call.messages = vec![
            sample::message("a", User, "hel"),
            sample::message("b", Assistant, "before").made(1.0),
            sample::message("a", User, "hello").made(6.0),
            sample::message("a", User, "hello").made(9.0),
        ];
        let expected = [(Assistant, "before", 1000), (User, "hello", 6000)];
        assert_eq!(shown(&turns(&call).unwrap()), expected);
    }

    #[test]
    fn neutral_messages_without_ids_fold_only_if_role_text_and_start_are_equal() {
        let neutral = |role, text, start| Message {
            id: None,
            created_at: None,
            ..sample::message("", role, text).spoke(start, start + 1.0)
        };
        let mut call = sample::call();
        call.source = SourceKind::Messages;
        call.messages = vec![
            neutral(User, "yes", 1.0),
            neutral(User, "yes ", 1.0),
            neutral(Assistant, "yes", 1.0),
            neutral(User, "yes", 4.0),
            neutral(User, "no", 4.0),
        ];
        let expected = [
            (User, "yes", 1000),
            (Assistant, "yes", 1000),
            (User, "yes", 4000),
            (User, "no", 4000),
        ];
        assert_eq!(shown(&turns(&call).unwrap()), expected);
        call.source = SourceKind::LivekitHistory;
        assert_eq!(turns(&call).unwrap().len(), 5);
    }

    #[test]
    fn a_user_transcript_that_arrived_after_its_reply_takes_the_replys_start() {
        let mut call = sample::call();
        call.messages = vec![
            sample::message("g", Assistant, "greeting").made(1.0).spoke(1.0, 4.0),
            sample::message("u", User, "answer").made(13.9),
            sample::message("r", Assistant, "reply").made(9.8).spoke(9.8, 13.9),
        ];
        let order = |call: &Call<'_>| {
            turns(call).unwrap().iter().map(|turn| (turn.text.to_string(), turn.start_ms)).collect()
        };
        let expected: Vec<(String, i64)> = [("greeting", 1000), ("answer", 9800), ("reply", 9800)]
            .map(|(text, start)| (text.to_owned(), start))
            .into();
        let found: Vec<(String, i64)> = order(&call);
        assert_eq!(found, expected);

        // A reply that was made later was only spoken "earlier" by a clock's whim.
        call.messages[2].created_at = call.messages[1].created_at;
        let found: Vec<(String, i64)> = order(&call);
        assert_eq!(found[2], ("answer".to_owned(), 13_900));
    }

    #[test]
    fn a_turn_without_time_starts_with_the_one_before_it() {
        let mut call = sample::call();
        call.messages = vec![
            sample::message("a", User, "first"),
            sample::message("b", Assistant, "timed").made(4.0),
            sample::message("c", User, "third"),
        ];
        assert_eq!(
            shown(&turns(&call).unwrap()),
            [(User, "first", 4000), (Assistant, "timed", 4000), (User, "third", 4000)]
        );
    }

    #[test]
    fn a_call_whose_turns_have_no_time_is_refused_but_one_without_turns_is_not() {
        let mut call = sample::call();
        assert_eq!(turns(&call), Ok(vec![]));
        call.messages = vec![sample::message("a", User, " ")];
        assert_eq!(turns(&call), Ok(vec![]));
        call.messages.push(sample::message("b", User, "hello"));
        assert_eq!(turns(&call).unwrap_err().code, FailureCode::UntimedTurns);
    }

    #[test]
    fn a_turn_of_another_day_is_refused() {
        for (seconds, is_fine) in
            [(-60.0, true), (-60.001, false), (604_800.0, true), (604_800.001, false)]
        {
            let messages = vec![sample::message("a", User, "hello").made(seconds)];
            let call = Call { messages, ..sample::call() };
            let result = turns(&call);
            assert_eq!(result.is_ok(), is_fine, "{seconds}");
            if let Err(rejection) = result {
                assert_eq!(rejection.code, FailureCode::InvalidEvent);
                assert_eq!(rejection.pointer.as_deref(), Some("/started_at"));
            }
        }
    }

    fn interruptions(messages: Vec<Message<'static>>) -> usize {
        let call = Call { messages, ..sample::call() };
        count_interruptions(&turns(&call).unwrap(), call.started_at)
    }

    #[test]
    fn an_interruption_is_an_interrupted_turn_that_a_user_spoke_over() {
        let cut = |start: f64, end: f64| Message {
            interrupted: true,
            ..sample::message("a", Assistant, "Once upon").made(start).spoke(start, end)
        };
        let user = |start: f64| sample::message("u", User, "Stop").spoke(start, start + 1.0);
        let agent = |start: f64| sample::message("b", Assistant, "Yes?").spoke(start, start + 1.0);

        assert_eq!(interruptions(vec![cut(1.0, 5.0), user(4.7)]), 1);
        assert_eq!(interruptions(vec![cut(1.0, 5.0), user(5.5)]), 1);
        assert_eq!(interruptions(vec![cut(1.0, 5.0), user(5.501)]), 0);
        assert_eq!(interruptions(vec![cut(1.0, 5.0)]), 0, "a hang-up");
        assert_eq!(interruptions(vec![cut(1.0, 5.0), agent(4.0), user(4.5)]), 0);
        let mut endless = cut(1.0, 5.0);
        endless.stopped_speaking_at = None;
        assert_eq!(interruptions(vec![endless, user(60.0)]), 1);
        let whole = Message { interrupted: false, ..cut(1.0, 5.0) };
        assert_eq!(interruptions(vec![whole, user(4.0)]), 0);
    }

    #[test]
    fn no_turn_can_forge_a_line() {
        let said = "Fine.\r\nUser: x\u{b}\u{c}\u{85}\u{2028}\u{2029}\u{1c} y\tz ";
        assert_eq!(
            transcript_text([(Assistant, said), (User, "ok")].into_iter()),
            "Assistant: Fine. User: x y z\nUser: ok"
        );
        assert_eq!(transcript_text(std::iter::empty()), "");
    }

    #[test]
    fn a_flood_of_open_tags_takes_no_longer_than_its_length() {
        let text = "<expr ".repeat(200_000);
        assert_eq!(without_markup(&text).len(), text.len());
    }

    fn any_message() -> impl Strategy<Value = Message<'static>> {
        let time = || proptest::option::of(-60.0..600.0);
        let text = prop_oneof![
            4 => "[ a-c<>/\u{0}\u{85}\u{2028}\n]{0,8}",
            1 => Just("<expr type=\"x\"/>".to_owned()),
            1 => "\\PC{0,6}",
        ];
        (
            proptest::option::of("[a-f]"),
            any::<bool>(),
            proptest::collection::vec(text, 0..3),
            (time(), time(), time()),
            any::<bool>(),
        )
            .prop_map(|(id, is_user, texts, (made, started, stopped), interrupted)| {
                Message {
                    id: id.map(Text::from),
                    role: if is_user { User } else { Assistant },
                    texts: texts.into_iter().map(Text::from).collect(),
                    audio_transcripts: vec![],
                    interrupted,
                    created_at: made.map(sample::at),
                    started_speaking_at: started.map(sample::at),
                    stopped_speaking_at: stopped.map(sample::at),
                    voice: None,
                }
            })
    }

    fn any_call() -> impl Strategy<Value = Call<'static>> {
        (proptest::collection::vec(any_message(), 0..24), any::<bool>()).prop_map(
            |(messages, is_neutral)| Call {
                messages,
                source: if is_neutral { SourceKind::Messages } else { SourceKind::LivekitHistory },
                ..sample::call()
            },
        )
    }

    proptest! {
        #[test]
        fn order_never_falls_and_texts_are_clean(call in any_call()) {
            let Ok(turns) = turns(&call) else { return Ok(()) };
            prop_assert!(turns.is_sorted_by_key(|turn| turn.start_ms));
            for turn in &turns {
                prop_assert!(turn.start_ms >= 0);
                prop_assert!(!turn.text.is_empty() && !turn.text.contains('\0'));
                prop_assert_eq!(turn.text.trim(), &turn.text);
            }
            prop_assert!(count_interruptions(&turns, call.started_at) <= turns.len() / 2);
        }

        #[test]
        fn no_text_is_lost_or_invented(mut call in any_call()) {
            call.source = SourceKind::LivekitHistory;
            for (index, message) in call.messages.iter_mut().enumerate() {
                message.id = Some(Text::from(index.to_string()));
            }
            let Ok(turns) = turns(&call) else { return Ok(()) };
            let mut kept: Vec<Cow<'_, str>> = turns.into_iter().map(|turn| turn.text).collect();
            let mut sent: Vec<Cow<'_, str>> = call.messages.iter().map(clean_text).collect();
            sent.retain(|text| !text.is_empty());
            kept.sort();
            sent.sort();
            prop_assert_eq!(kept, sent);
        }

        #[test]
        fn indexes_are_contiguous_and_lines_cannot_be_forged(call in any_call()) {
            let Ok(turns) = turns(&call) else { return Ok(()) };
            let json: Vec<serde_json::Value> =
                serde_json::from_str(&transcript_json(&turns)).unwrap();
            for (index, line) in json.iter().enumerate() {
                prop_assert_eq!(line["turn_index"].as_u64(), u64::try_from(index).ok());
            }
            let text =
                transcript_text(turns.iter().map(|turn| (turn.role, &*turn.text)));
            let breaks = |c: char| matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
            let lines: Vec<&str> =
                if text.is_empty() { vec![] } else { text.split(breaks).collect() };
            prop_assert_eq!(lines.len(), turns.len());
            for (line, turn) in lines.iter().zip(&turns) {
                let speaker = if turn.role == User { "User:" } else { "Assistant:" };
                prop_assert!(line.starts_with(speaker));
            }
        }
    }
}
