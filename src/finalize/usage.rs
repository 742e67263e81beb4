//! What a call used: the entries of LLM, STT and TTS, by provider and model.

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::event::{Call, Rejection, SourceKind, UsageCounts, UsageEntry};

/// No total of a call may exceed this many tokens, characters or microseconds (eleven days of
/// audio). What is above is no measurement, and would overflow the sums.
const MOST: i64 = 1_000_000_000_000;

/// The entry's number that is sent in seconds and kept in microseconds.
const AUDIO: &str = "audio_duration";

/// What a provider is called, by what SDKs call it: a name or the host of its API, in lower case.
const PROVIDERS: [(&str, &str); 24] = [
    ("amazon polly", "aws"),
    ("amazon transcribe", "aws"),
    ("api.anthropic.com", "anthropic"),
    ("api.assemblyai.com", "assemblyai"),
    ("api.cartesia.ai", "cartesia"),
    ("api.cerebras.ai", "cerebras"),
    ("api.deepgram.com", "deepgram"),
    ("api.deepseek.com", "deepseek"),
    ("api.elevenlabs.io", "elevenlabs"),
    ("api.fireworks.ai", "fireworks"),
    ("api.groq.com", "groq"),
    ("api.mistral.ai", "mistral"),
    ("api.openai.com", "openai"),
    ("api.perplexity.ai", "perplexity"),
    ("api.together.xyz", "together"),
    ("api.x.ai", "xai"),
    ("aws bedrock", "aws"),
    ("azure stt", "azure"),
    ("azure tts", "azure"),
    ("eleven_labs", "elevenlabs"),
    ("gemini", "google"),
    ("generativelanguage.googleapis.com", "google"),
    ("google cloud platform", "google"),
    ("vertex ai", "google"),
];

/// Every customer of Azure OpenAI has a host of its own below this one.
const AZURE_HOST: &str = ".openai.azure.com";

/// What was used.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum UsageKind {
    /// Tokens.
    Llm,
    /// Heard audio.
    Stt,
    /// Spoken characters.
    Tts,
}

impl UsageKind {
    /// The kind as it stands in price books and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Llm => "llm",
            Self::Stt => "stt",
            Self::Tts => "tts",
        }
    }
}

/// Sums of metered amounts. Audio and cached tokens are part of their direction's total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "named as LiveKit's ModelUsage names them")]
pub struct Amounts {
    #[serde(skip_serializing_if = "is_zero")]
    pub input_tokens: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub input_cached_tokens: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub input_cache_creation_tokens: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub input_audio_tokens: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub input_cached_audio_tokens: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub output_tokens: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub output_audio_tokens: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub characters_count: i64,
    /// Microseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub audio_us: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(amount: &i64) -> bool {
    *amount == 0
}

/// All use of one model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageLine {
    /// What was used.
    pub kind: UsageKind,
    /// Folded by alias; may be empty.
    pub provider: String,
    /// Without its provider's name; may be empty.
    pub model: String,
    /// The sums.
    #[serde(flatten)]
    pub amounts: Amounts,
}

/// A call's usage: one line per (kind, provider, model), in the order first seen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// The lines.
    #[serde(default)]
    pub lines: Vec<UsageLine>,
}

impl Usage {
    /// The usage as it is stored.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers are always JSON")
    }

    /// Reads what [`Usage::to_json`] wrote; `{}` is no usage.
    ///
    /// # Errors
    ///
    /// If the text is anything else.
    pub fn from_json(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }

    /// The sum of one amount over all lines of a kind.
    pub fn total(&self, kind: UsageKind, amount: impl Fn(&Amounts) -> i64) -> i64 {
        self.of_kind(kind).map(|line| amount(&line.amounts)).sum()
    }

    /// Heard audio in milliseconds, rounded once.
    pub fn stt_audio_ms(&self) -> i64 {
        (self.total(UsageKind::Stt, |amounts| amounts.audio_us) + 500) / 1000
    }

    /// The line of this kind with most usage, the first of equals; none if nothing was used.
    pub fn main_line(&self, kind: UsageKind) -> Option<&UsageLine> {
        let used = self.of_kind(kind).filter(|line| line.weight() > (0, 0));
        used.reduce(|most, line| if line.weight() > most.weight() { line } else { most })
    }

    fn of_kind(&self, kind: UsageKind) -> impl Iterator<Item = &UsageLine> {
        self.lines.iter().filter(move |line| line.kind == kind)
    }
}

impl UsageLine {
    /// How much use this is, among lines of its kind. Speech models may be metered in tokens.
    fn weight(&self) -> (i64, i64) {
        let tokens = self.amounts.input_tokens + self.amounts.output_tokens;
        match self.kind {
            UsageKind::Llm => (tokens, 0),
            UsageKind::Stt => (self.amounts.audio_us, tokens),
            UsageKind::Tts => (self.amounts.characters_count, tokens),
        }
    }
}

/// Adds up a call's usage.
///
/// # Errors
///
/// `invalid_event` at the entry's number if one is negative, if an LLM has more cached than
/// input tokens, or if a total is beyond any measurement.
pub fn total_usage(call: &Call<'_>) -> Result<Usage, Rejection> {
    let voices = LazyCell::new(|| voices(call));
    let mut usage = Usage::default();
    let mut places: BTreeMap<(UsageKind, String, String), usize> = BTreeMap::new();
    let mut totals: BTreeMap<UsageKind, Amounts> = BTreeMap::new();
    for entry in &call.usage {
        let index = entry.index;
        let (provider, model) =
            fold_alias(entry.model.provider.as_str(), entry.model.model.as_str());
        let Some(kind) = kind_of(entry, || voices.contains(&(provider.clone(), model.clone())))
        else {
            continue;
        };
        check_cached(call.source, index, kind, &entry.counts)?;
        let total = totals.entry(kind).or_default();
        add(total, &entry.counts).map_err(|name| beyond_measure(call.source, index, name))?;
        let place =
            *places.entry((kind, provider.clone(), model.clone())).or_insert(usage.lines.len());
        if place == usage.lines.len() {
            usage.lines.push(UsageLine { kind, provider, model, amounts: Amounts::default() });
        }
        let line = &mut usage.lines[place].amounts;
        add(line, &entry.counts).map_err(|name| beyond_measure(call.source, index, name))?;
    }
    Ok(usage)
}

/// A provider's and a model's names as price books and the API know them. `LiveKit`'s gateway
/// sells other providers' models as `provider/model`.
pub(super) fn fold_alias(provider: &str, model: &str) -> (String, String) {
    let provider = provider.trim().to_lowercase();
    let model = model.trim();
    if provider == "livekit"
        && let Some((provider, model)) = model.split_once('/')
    {
        return (fold_provider(provider.to_lowercase()), model.to_owned());
    }
    (fold_provider(provider), model.to_owned())
}

fn fold_provider(name: String) -> String {
    if name.ends_with(AZURE_HOST) {
        return "azure".to_owned();
    }
    match PROVIDERS.iter().find(|(alias, _)| *alias == name) {
        Some((_, provider)) => (*provider).to_owned(),
        None => name,
    }
}

/// The (provider, model) pairs that spoke in this call.
fn voices(call: &Call<'_>) -> HashSet<(String, String)> {
    let voices = call.messages.iter().filter_map(|message| message.voice.as_ref());
    voices.map(|voice| fold_alias(voice.provider.as_str(), voice.model.as_str())).collect()
}

/// What an entry measures; none if it is nothing that costs. Releases before 1.8.9 do not say,
/// and both kinds of speech measure audio: what spoke in a message is TTS.
fn kind_of(entry: &UsageEntry<'_>, is_voice: impl FnOnce() -> bool) -> Option<UsageKind> {
    let counts = &entry.counts;
    match entry.kind.as_ref().map(crate::event::Text::as_str) {
        Some("llm" | "llm_usage") => Some(UsageKind::Llm),
        Some("stt" | "stt_usage") => Some(UsageKind::Stt),
        Some("tts" | "tts_usage") => Some(UsageKind::Tts),
        Some(_) => None,
        None if counts.characters_count.is_some() => Some(UsageKind::Tts),
        None if counts.audio_us.is_some() => {
            Some(if is_voice() { UsageKind::Tts } else { UsageKind::Stt })
        }
        None => has_tokens(counts).then_some(UsageKind::Llm),
    }
}

fn has_tokens(counts: &UsageCounts) -> bool {
    let tokens = UsageCounts { characters_count: None, audio_us: None, ..*counts };
    tokens != UsageCounts::default()
}

fn check_cached(
    source: SourceKind,
    index: usize,
    kind: UsageKind,
    counts: &UsageCounts,
) -> Result<(), Rejection> {
    let cached = counts.input_cached_tokens.unwrap_or(0);
    if kind != UsageKind::Llm || cached <= counts.input_tokens.unwrap_or(0) {
        return Ok(());
    }
    Err(Rejection::invalid(
        pointer(source, index, "input_cached_tokens"),
        "Expected at most input_tokens, found more cached tokens: send input_tokens with the \
         cached ones included.",
    ))
}

fn beyond_measure(source: SourceKind, index: usize, name: &'static str) -> Rejection {
    let most = match name {
        AUDIO => format!("{} seconds", MOST / 1_000_000),
        _ => MOST.to_string(),
    };
    let message = format!(
        "Expected from 0 to {most} in the whole call, found another number: send what was \
         metered in this very call."
    );
    Rejection::invalid(pointer(source, index, wire_name(source, name)), message)
}

/// Where a number of a usage entry stands in the event.
fn pointer(source: SourceKind, index: usize, name: &str) -> String {
    match source {
        SourceKind::LivekitSessionReport => format!("/report/usage/{index}/{name}"),
        SourceKind::LivekitHistory | SourceKind::Messages => format!("/usage/{index}/{name}"),
    }
}

/// The neutral form calls two of the numbers otherwise.
fn wire_name(source: SourceKind, name: &'static str) -> &'static str {
    match (source, name) {
        (SourceKind::Messages, "characters_count") => "characters",
        (SourceKind::Messages, AUDIO) => "audio_seconds",
        _ => name,
    }
}

/// Adds an entry to sums; the name of the number that does not fit.
fn add(sums: &mut Amounts, counts: &UsageCounts) -> Result<(), &'static str> {
    let Amounts {
        input_tokens,
        input_cached_tokens,
        input_cache_creation_tokens,
        input_audio_tokens,
        input_cached_audio_tokens,
        output_tokens,
        output_audio_tokens,
        characters_count,
        audio_us,
    } = sums;
    let parts = [
        ("input_tokens", input_tokens, counts.input_tokens),
        ("input_cached_tokens", input_cached_tokens, counts.input_cached_tokens),
        (
            "input_cache_creation_tokens",
            input_cache_creation_tokens,
            counts.input_cache_creation_tokens,
        ),
        ("input_audio_tokens", input_audio_tokens, counts.input_audio_tokens),
        ("input_cached_audio_tokens", input_cached_audio_tokens, counts.input_cached_audio_tokens),
        ("output_tokens", output_tokens, counts.output_tokens),
        ("output_audio_tokens", output_audio_tokens, counts.output_audio_tokens),
        ("characters_count", characters_count, counts.characters_count),
        (AUDIO, audio_us, counts.audio_us),
    ];
    for (name, sum, count) in parts {
        let count = count.unwrap_or(0);
        *sum = sum.checked_add(count).filter(|sum| count >= 0 && *sum <= MOST).ok_or(name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sample;
    use super::*;
    use crate::event::{Message, Model, Role};

    fn counts(input: i64, output: i64) -> UsageCounts {
        UsageCounts {
            input_tokens: Some(input),
            output_tokens: Some(output),
            ..UsageCounts::default()
        }
    }

    fn audio(seconds: i64) -> UsageCounts {
        UsageCounts { audio_us: Some(seconds * 1_000_000), ..UsageCounts::default() }
    }

    fn total(usage: Vec<UsageEntry<'static>>) -> Usage {
        total_usage(&Call { usage, ..sample::call() }).unwrap()
    }

    fn names(usage: &Usage) -> Vec<(UsageKind, &str, &str)> {
        let lines = usage.lines.iter();
        lines.map(|line| (line.kind, line.provider.as_str(), line.model.as_str())).collect()
    }

    #[test]
    fn entries_of_one_model_are_one_line_whatever_its_provider_is_called() {
        let usage = total(vec![
            sample::usage("llm_usage", "api.openai.com", "gpt-4o-mini", counts(100, 10)),
            sample::usage("llm", "OpenAI", "gpt-4o-mini", counts(20, 2)),
            sample::usage("llm_usage", "livekit", "openai/gpt-4o-mini", counts(3, 1)),
            sample::usage("eot_usage", "livekit", "turn-detector", counts(9, 9)),
            sample::usage("stt_usage", "Deepgram", "nova-3", audio(5)),
        ]);
        assert_eq!(
            names(&usage),
            [(UsageKind::Llm, "openai", "gpt-4o-mini"), (UsageKind::Stt, "deepgram", "nova-3")]
        );
        assert_eq!(usage.total(UsageKind::Llm, |amounts| amounts.input_tokens), 123);
        assert_eq!(usage.total(UsageKind::Llm, |amounts| amounts.output_tokens), 13);
        assert_eq!(usage.stt_audio_ms(), 5000);
    }

    #[test]
    fn providers_are_folded_by_alias() {
        for (provider, model, expected) in [
            ("api.openai.com", "gpt-realtime", ("openai", "gpt-realtime")),
            ("acme.openai.azure.com", "gpt-4o-mini", ("azure", "gpt-4o-mini")),
            ("api.groq.com", "llama-3.3-70b-versatile", ("groq", "llama-3.3-70b-versatile")),
            ("api.anthropic.com", "claude-sonnet-4-6", ("anthropic", "claude-sonnet-4-6")),
            ("ElevenLabs", "eleven_turbo_v2_5", ("elevenlabs", "eleven_turbo_v2_5")),
            ("Gemini", "gemini-3.8-flash", ("google", "gemini-3.8-flash")),
            ("livekit", "deepgram/nova-3", ("deepgram", "nova-3")),
            ("livekit", "own-model", ("livekit", "own-model")),
            ("tts.internal:4123", "chatterbox", ("tts.internal:4123", "chatterbox")),
            ("", "", ("", "")),
        ] {
            let (folded, name) = fold_alias(provider, model);
            assert_eq!((folded.as_str(), name.as_str()), expected);
        }
    }

    #[test]
    fn aliases_are_lower_case_sorted_and_unique() {
        assert!(PROVIDERS.is_sorted_by(|(one, _), (other, _)| one < other));
        for (alias, provider) in PROVIDERS {
            assert_eq!(alias.to_lowercase(), alias);
            assert_eq!(fold_provider(provider.to_owned()), provider, "a name is its own");
        }
    }

    #[test]
    fn untyped_entries_are_told_apart_by_their_keys_and_by_who_spoke() {
        let characters =
            UsageCounts { characters_count: Some(0), audio_us: Some(1), ..UsageCounts::default() };
        let mut call = sample::call();
        call.messages = vec![Message {
            voice: Some(Model { provider: "Cartesia".into(), model: "sonic-3".into() }),
            ..sample::message("a", Role::Assistant, "Hi")
        }];
        call.usage = vec![
            sample::usage("", "chatterbox", "chatterbox-en-v1", characters),
            sample::usage("", "livekit", "cartesia/sonic-3", audio(2)),
            sample::usage("", "api.openai.com", "whisper-1", audio(3)),
            sample::usage("", "api.openai.com", "gpt-4o-mini", counts(4, 5)),
            sample::usage("", "livekit", "interruption", UsageCounts::default()),
        ];
        assert_eq!(
            names(&total_usage(&call).unwrap()),
            [
                (UsageKind::Tts, "chatterbox", "chatterbox-en-v1"),
                (UsageKind::Tts, "cartesia", "sonic-3"),
                (UsageKind::Stt, "openai", "whisper-1"),
                (UsageKind::Llm, "openai", "gpt-4o-mini")
            ]
        );
    }

    #[test]
    fn the_main_model_is_the_one_with_most_usage_after_folding() {
        let usage = total(vec![
            sample::usage("llm", "api.openai.com", "gpt-4o-mini", counts(60, 0)),
            sample::usage("llm", "api.anthropic.com", "claude-sonnet-4-6", counts(50, 50)),
            sample::usage("llm", "livekit", "openai/gpt-4o-mini", counts(0, 50)),
            sample::usage("stt", "", "", audio(0)),
        ]);
        assert_eq!(usage.main_line(UsageKind::Llm).unwrap().model, "gpt-4o-mini");
        assert_eq!(usage.main_line(UsageKind::Stt), None);
        assert_eq!(usage.main_line(UsageKind::Tts), None);
    }

    #[test]
    fn more_cached_than_input_tokens_is_refused_where_it_stands() {
        let entry = |input| {
            let counts = UsageCounts { input_cached_tokens: Some(11), ..counts(input, 0) };
            sample::usage("llm_usage", "api.openai.com", "gpt-4o-mini", counts)
        };
        // An entry between the two was left out: of another type.
        let wrong = UsageEntry { index: 2, ..entry(10) };
        let mut call = Call { usage: vec![entry(11), wrong], ..sample::call() };
        let pointer = |call: &Call<'_>| total_usage(call).unwrap_err().pointer.unwrap();
        assert_eq!(pointer(&call), "/report/usage/2/input_cached_tokens");
        call.source = SourceKind::LivekitHistory;
        assert_eq!(pointer(&call), "/usage/2/input_cached_tokens");
    }

    #[test]
    fn sums_beyond_any_measurement_are_refused() {
        for (first, second) in [(MOST, 1), (i64::MAX, i64::MAX), (0, -1)] {
            let characters =
                |count| UsageCounts { characters_count: Some(count), ..UsageCounts::default() };
            let call = Call {
                source: SourceKind::Messages,
                usage: vec![
                    sample::usage("tts", "openai", "tts-1", characters(first)),
                    sample::usage("tts", "openai", "tts-1-hd", characters(second)),
                ],
                ..sample::call()
            };
            let rejection = total_usage(&call).unwrap_err();
            assert!(rejection.pointer.unwrap().ends_with("/characters"));
        }
    }

    #[test]
    fn too_much_audio_is_refused_in_seconds() {
        let call = Call {
            usage: vec![sample::usage("stt", "deepgram", "nova-3", audio(1_000_001))],
            ..sample::call()
        };
        let rejection = total_usage(&call).unwrap_err();
        assert_eq!(rejection.pointer.as_deref(), Some("/report/usage/0/audio_duration"));
        assert!(rejection.message.contains(" 1000000 seconds "), "{}", rejection.message);
    }

    #[test]
    fn audio_is_rounded_to_milliseconds_once() {
        let microseconds =
            |audio_us| UsageCounts { audio_us: Some(audio_us), ..UsageCounts::default() };
        let usage = total(vec![
            sample::usage("stt", "openai", "whisper-1", microseconds(400)),
            sample::usage("stt", "deepgram", "nova-3", microseconds(100)),
        ]);
        assert_eq!(usage.stt_audio_ms(), 1);
    }

    proptest! {
        #[test]
        fn what_is_stored_is_read_back(
            lines in proptest::collection::vec(("[a-z]{0,3}", 0..MOST, 0..MOST), 0..5)
        ) {
            let lines = lines.into_iter().map(|(model, input_tokens, audio_us)| UsageLine {
                kind: UsageKind::Stt,
                provider: "openai".to_owned(),
                model,
                amounts: Amounts { input_tokens, audio_us, ..Amounts::default() },
            });
            let usage = Usage { lines: lines.collect() };
            prop_assert_eq!(Usage::from_json(&usage.to_json()).unwrap(), usage);
        }
    }

    #[test]
    fn a_session_in_progress_has_no_usage() {
        assert_eq!(Usage::from_json("{}").unwrap(), Usage::default());
    }
}
