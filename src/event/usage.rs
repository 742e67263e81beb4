//! Metered usage: `LiveKit`'s `ModelUsage` and the neutral entries, which share most names.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::elements::{Element, Selective, read_list};
use super::scalar::{Count, MaybeText, Name, Seconds};
use super::{Model, Rejection, UsageCounts, UsageEntry};

/// One entry, cut to what we use.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Entry<'a> {
    #[serde(rename = "type", default, borrow)]
    kind: MaybeText<'a>,
    provider: Option<Name<'a>>,
    model: Option<Name<'a>>,
    input_tokens: Option<Count>,
    input_cached_tokens: Option<Count>,
    input_cache_creation_tokens: Option<Count>,
    input_audio_tokens: Option<Count>,
    input_cached_audio_tokens: Option<Count>,
    output_tokens: Option<Count>,
    output_audio_tokens: Option<Count>,
    #[serde(alias = "characters")]
    characters_count: Option<Count>,
    #[serde(alias = "audio_seconds")]
    audio_duration: Option<Seconds>,
    total_requests: Option<IgnoredAny>,
}

impl<'a> Selective<'a> for Entry<'a> {
    const TELLING: &'static [&'static str] = &["type"];

    fn is_kept(&self) -> bool {
        // Before 1.8.9 there were no types: the finalizer tells such entries apart by their keys.
        matches!(
            self.kind.as_str(),
            "" | "llm" | "llm_usage" | "stt" | "stt_usage" | "tts" | "tts_usage"
        )
    }
}

impl<'a> Entry<'a> {
    fn into_entry(self, index: usize) -> Option<UsageEntry<'a>> {
        if !self.is_kept() {
            return None;
        }
        let counts = self.counts();
        let counts_requests_only =
            counts == UsageCounts::default() && self.total_requests.is_some();
        let kind = self.kind.0.filter(|kind| !kind.as_str().is_empty());
        if kind.is_none() && counts_requests_only {
            return None;
        }
        let name = |name: Option<Name<'a>>| name.map(|name| name.0).unwrap_or_default();
        let model = Model { provider: name(self.provider), model: name(self.model) };
        Some(UsageEntry { index, kind, model, counts })
    }

    fn counts(&self) -> UsageCounts {
        let count = |count: Option<Count>| count.map(|count| count.0);
        UsageCounts {
            input_tokens: count(self.input_tokens),
            input_cached_tokens: count(self.input_cached_tokens),
            input_cache_creation_tokens: count(self.input_cache_creation_tokens),
            input_audio_tokens: count(self.input_audio_tokens),
            input_cached_audio_tokens: count(self.input_cached_audio_tokens),
            output_tokens: count(self.output_tokens),
            output_audio_tokens: count(self.output_audio_tokens),
            characters_count: count(self.characters_count),
            audio_us: self.audio_duration.map(|seconds| seconds.0),
        }
    }
}

/// The entries that count. `list` is the pointer to the list.
pub(super) fn read_usage<'a, U: Element<Entry<'a>>>(
    usage: Option<Vec<U>>,
    list: &str,
) -> Result<Vec<UsageEntry<'a>>, Rejection> {
    let entries = read_list(usage.unwrap_or_default(), list)?;
    let indexed = entries.into_iter().enumerate();
    Ok(indexed.filter_map(|(index, entry)| entry.into_entry(index)).collect())
}
