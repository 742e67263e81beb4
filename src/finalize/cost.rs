//! What a call cost: usage times the price book, in decimal arithmetic, rounded once.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use rust_decimal::prelude::ToPrimitive;
use rust_decimal::{Decimal, RoundingStrategy};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::usage::{Amounts, Usage, UsageKind, UsageLine, fold_alias};

/// The book that comes with the program.
const BUILTIN: &str = include_str!("prices.toml");
/// No unit may cost more dollars than this …
const MOST_DOLLARS: Decimal = Decimal::ONE_THOUSAND;
/// … or be given with more decimals. With the bound on usage this keeps every product exact.
const MOST_DECIMALS: u32 = 9;

/// The largest common part of all units: a micro-dollar's 3,600th. A price in dollars per million
/// is a price in micro-dollars per one, and an hour has 3,600 seconds; in shares every line of a
/// bill is exact, and only the sum is divided and rounded.
const SHARES_PER_MICRO: Decimal = Decimal::from_parts(3600, 0, 0, false, 0);

/// Prices by (kind, provider, model). TOML; see `prices.toml` beside this file.
#[derive(Debug, Clone)]
pub struct PriceBook {
    prices: HashMap<(UsageKind, String, String), Price>,
}

/// In one sentence: the library's own has several lines.
fn no_toml(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    format!("the price book is no TOML: line {line}: {}", error.message())
}

/// Why a price book cannot be used; names the entry.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PriceBookError(pub String);

/// A call's cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// The total, in micro-dollars, rounded half-even.
    pub micros: i64,
    /// `{"lines": […], "unpriced": […]}`, as JSON text. Each line is rounded for itself, so
    /// the lines may differ from the total in the last digit.
    pub breakdown: String,
}

/// What one unit of a model costs, in dollars.
#[derive(Debug, Clone, PartialEq)]
enum Price {
    /// Per million tokens.
    Tokens(Box<TokenPrices>),
    /// Per million characters.
    Characters(Decimal),
    /// Per so many 3,600ths of an hour's share: 3600 per second, 60 per minute, 1 per hour.
    Audio { price: Decimal, shares: Decimal },
}

/// Dollars per million tokens.
#[derive(Debug, Clone, PartialEq)]
struct TokenPrices {
    input: Decimal,
    cached_input: Decimal,
    cache_write: Decimal,
    audio_input: Decimal,
    cached_audio_input: Decimal,
    output: Decimal,
    audio_output: Decimal,
}

impl PriceBook {
    /// The book that comes with the program.
    pub fn builtin() -> Self {
        Self::parse(BUILTIN).expect("a test reads the built-in book")
    }

    /// Reads a book.
    ///
    /// # Errors
    ///
    /// If the text is no TOML, or an entry cannot be used; the error names the entry and says
    /// what to change.
    pub fn parse(text: &str) -> Result<Self, PriceBookError> {
        let document: toml::Table =
            toml::from_str(text).map_err(|error| PriceBookError(no_toml(text, &error)))?;
        let mut prices = HashMap::new();
        for (key, value) in document {
            let toml::Value::Array(entries) = value else { return Err(unknown_table(&key)) };
            if key != "price" {
                return Err(unknown_table(&key));
            }
            for (index, entry) in entries.into_iter().enumerate() {
                let name = name_of(index, &entry);
                let wrong = |what: String| PriceBookError(format!("{name}: {what}"));
                let entry = Entry::deserialize(entry)
                    .map_err(|error| wrong(error.message().trim_end().replace('\n', "; ")))?;
                let key = entry.key();
                let price = entry.price().map_err(wrong)?;
                if prices.insert(key, price).is_some() {
                    let what = "this kind, provider and model has a price already: remove one";
                    return Err(wrong(what.to_owned()));
                }
            }
        }
        Ok(Self { prices })
    }

    /// What this usage costs.
    pub fn cost(&self, usage: &Usage) -> Cost {
        let mut total = Decimal::ZERO;
        let mut breakdown = Breakdown { lines: vec![], unpriced: vec![] };
        for line in &usage.lines {
            match self.shares(line) {
                Some(shares) => {
                    total = total.saturating_add(shares);
                    let cost_usd = Some(Dollars(round_to_micros(shares)));
                    breakdown.lines.push(BreakdownLine::new(line, cost_usd));
                }
                None => breakdown.unpriced.push(BreakdownLine::new(line, None)),
            }
        }
        Cost { micros: round_to_micros(total), breakdown: breakdown.to_json() }
    }

    /// What of this usage has no price.
    pub fn unpriced<'a>(&self, usage: &'a Usage) -> impl Iterator<Item = &'a UsageLine> {
        usage.lines.iter().filter(|line| self.shares(line).is_none())
    }

    /// What a line costs; none if the book has no price for it, or only in a unit that the line
    /// was not metered in.
    fn shares(&self, line: &UsageLine) -> Option<Decimal> {
        let UsageLine { kind, provider, model, amounts } = line;
        let price = self.prices.get(&(*kind, provider.clone(), model.clone()))?;
        let is_metered = match price {
            Price::Tokens(_) => amounts.input_tokens > 0 || amounts.output_tokens > 0,
            Price::Characters(_) => amounts.characters_count > 0,
            Price::Audio { .. } => amounts.audio_us > 0,
        };
        (is_metered || *amounts == Amounts::default()).then(|| price.shares(amounts))
    }
}

impl Price {
    fn shares(&self, amounts: &Amounts) -> Decimal {
        match self {
            Self::Tokens(prices) => prices.micros(amounts).saturating_mul(SHARES_PER_MICRO),
            Self::Characters(price) => {
                times(*price, amounts.characters_count).saturating_mul(SHARES_PER_MICRO)
            }
            Self::Audio { price, shares } => {
                times(*price, amounts.audio_us).saturating_mul(*shares)
            }
        }
    }
}

impl TokenPrices {
    /// Input is gross: cached, cache-written and audio tokens are part of it, and cached audio
    /// tokens are part of both the cached and the audio ones. No token is paid twice: where the
    /// cached and the audio ones are more than all, some must be both.
    fn micros(&self, amounts: &Amounts) -> Decimal {
        let input = amounts.input_tokens;
        let all_cached = amounts.input_cached_tokens.min(input);
        let all_audio = amounts.input_audio_tokens.min(input);
        let cached_audio = amounts
            .input_cached_audio_tokens
            .max(all_cached + all_audio - input)
            .min(all_cached.min(all_audio));
        let cached = all_cached - cached_audio;
        let audio = all_audio - cached_audio;
        let rest = input - cached_audio - cached - audio;
        let written = amounts.input_cache_creation_tokens.min(rest);
        let spoken = amounts.output_audio_tokens.min(amounts.output_tokens);
        [
            (self.input, rest - written),
            (self.cached_input, cached),
            (self.cache_write, written),
            (self.audio_input, audio),
            (self.cached_audio_input, cached_audio),
            (self.output, amounts.output_tokens - spoken),
            (self.audio_output, spoken),
        ]
        .into_iter()
        .map(|(price, tokens)| times(price, tokens))
        .fold(Decimal::ZERO, Decimal::saturating_add)
    }
}

fn times(price: Decimal, amount: i64) -> Decimal {
    price.saturating_mul(Decimal::from(amount))
}

fn round_to_micros(shares: Decimal) -> i64 {
    let micros = shares / SHARES_PER_MICRO;
    let rounded = micros.round_dp_with_strategy(0, RoundingStrategy::MidpointNearestEven);
    // The bounds on usage and prices keep a call's cost far below this.
    rounded.to_i64().unwrap_or(i64::MAX)
}

/// The kinds of usage that a breakdown says have no price, each once.
pub fn unpriced_kinds(breakdown: &str) -> BTreeSet<UsageKind> {
    #[derive(Deserialize)]
    struct Unpriced {
        unpriced: Vec<Kind>,
    }
    #[derive(Deserialize)]
    struct Kind {
        kind: UsageKind,
    }
    if breakdown.ends_with(r#""unpriced":[]}"#) {
        return BTreeSet::new();
    }
    let read: Option<Unpriced> = serde_json::from_str(breakdown).ok();
    read.into_iter().flat_map(|read| read.unpriced).map(|Kind { kind }| kind).collect()
}

/// `{"lines": [{kind, provider, model, cost_usd}], "unpriced": [{kind, provider, model}]}`.
#[derive(Serialize, ToSchema)]
#[schema(as = CostBreakdown)]
pub(super) struct Breakdown<'a> {
    lines: Vec<BreakdownLine<'a>>,
    unpriced: Vec<BreakdownLine<'a>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = CostLine)]
pub(super) struct BreakdownLine<'a> {
    kind: UsageKind,
    provider: &'a str,
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_usd: Option<Dollars>,
}

impl Breakdown<'_> {
    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings are always JSON")
    }
}

impl<'a> BreakdownLine<'a> {
    fn new(line: &'a UsageLine, cost_usd: Option<Dollars>) -> Self {
        Self { kind: line.kind, provider: &line.provider, model: &line.model, cost_usd }
    }
}

/// Micro-dollars, shown as dollars with six decimals.
#[derive(Debug, Clone, Copy, ToSchema)]
#[schema(value_type = String, example = "0.014200")]
pub struct Dollars(pub i64);

impl fmt::Display for Dollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

impl Serialize for Dollars {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An entry of a book, as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    kind: UsageKind,
    provider: String,
    model: String,
    unit: Unit,
    price: Option<Amount>,
    input: Option<Amount>,
    cached_input: Option<Amount>,
    cache_write: Option<Amount>,
    audio_input: Option<Amount>,
    cached_audio_input: Option<Amount>,
    output: Option<Amount>,
    audio_output: Option<Amount>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
enum Unit {
    #[serde(rename = "1M tokens")]
    MillionTokens,
    #[serde(rename = "1M characters")]
    MillionCharacters,
    #[serde(rename = "hour")]
    Hour,
    #[serde(rename = "minute")]
    Minute,
    #[serde(rename = "second")]
    Second,
}

/// A price: digits in quotes, or a whole number. Never a float, which is not what was written.
#[derive(Clone, Copy)]
struct Amount(Decimal);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let price = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(digits) => Decimal::from_str_exact(&digits)
                .map_err(|_| D::Error::custom(format!("\"{digits}\" is no decimal number")))?,
            toml::Value::Integer(whole) => Decimal::from(whole),
            toml::Value::Float(float) => {
                let what = format!("write the price {float} in quotes, so that it stays exact");
                return Err(D::Error::custom(what));
            }
            _ => return Err(D::Error::custom("a price is a number in quotes")),
        };
        let price = price.normalize();
        if price < Decimal::ZERO || price > MOST_DOLLARS || price.scale() > MOST_DECIMALS {
            return Err(D::Error::custom(format!(
                "the price {price} must lie between 0 and {MOST_DOLLARS}, with at most \
                 {MOST_DECIMALS} decimals"
            )));
        }
        Ok(Self(price))
    }
}

impl Entry {
    fn key(&self) -> (UsageKind, String, String) {
        let (provider, model) = fold_alias(&self.provider, &self.model);
        (self.kind, provider, model)
    }

    fn price(self) -> Result<Price, String> {
        match (self.kind, self.unit) {
            (_, Unit::MillionTokens) => self.token_prices(),
            (UsageKind::Tts, Unit::MillionCharacters) => self.single_price().map(Price::Characters),
            (UsageKind::Stt, Unit::Second) => self.audio_price(SHARES_PER_MICRO),
            (UsageKind::Stt, Unit::Minute) => {
                self.audio_price(Decimal::from_parts(60, 0, 0, false, 0))
            }
            (UsageKind::Stt, Unit::Hour) => self.audio_price(Decimal::ONE),
            (kind, _) => Err(format!(
                "{} is not sold by this unit: use \"1M tokens\"{}",
                kind.as_str(),
                match kind {
                    UsageKind::Llm => "",
                    UsageKind::Stt => ", \"hour\", \"minute\" or \"second\"",
                    UsageKind::Tts => " or \"1M characters\"",
                }
            )),
        }
    }

    fn audio_price(&self, shares: Decimal) -> Result<Price, String> {
        Ok(Price::Audio { price: self.single_price()?, shares })
    }

    fn single_price(&self) -> Result<Decimal, String> {
        let others = [
            self.input,
            self.cached_input,
            self.cache_write,
            self.audio_input,
            self.cached_audio_input,
            self.output,
            self.audio_output,
        ];
        match self.price {
            Some(Amount(price)) if others.iter().all(Option::is_none) => Ok(price),
            _ => Err("this unit has one price: give `price`, and no prices of tokens".to_owned()),
        }
    }

    fn token_prices(&self) -> Result<Price, String> {
        let (Some(Amount(input)), None) = (self.input, self.price) else {
            return Err("tokens have a price per direction: give `input` (and `output`), and no \
                        `price`"
                .to_owned());
        };
        let output = match (self.output, self.kind) {
            (Some(Amount(output)), _) => output,
            // What is heard has no output to pay for but its text, often free.
            (None, UsageKind::Stt) => Decimal::ZERO,
            (None, _) => return Err("give `output`, the price of output tokens".to_owned()),
        };
        let or = |price: Option<Amount>, plain| price.map_or(plain, |Amount(price)| price);
        let cached_input = or(self.cached_input, input);
        let audio_input = or(self.audio_input, input);
        let cached_audio = if self.audio_input.is_some() { audio_input } else { cached_input };
        Ok(Price::Tokens(Box::new(TokenPrices {
            input,
            cached_input,
            cache_write: or(self.cache_write, input),
            audio_input,
            cached_audio_input: or(self.cached_audio_input, cached_audio),
            output,
            audio_output: or(self.audio_output, output),
        })))
    }
}

/// What an entry is called in an error: its place and as much of its key as can be read.
fn name_of(index: usize, entry: &toml::Value) -> String {
    let keys = ["kind", "provider", "model"];
    let words = keys.iter().filter_map(|key| entry.get(key)?.as_str());
    let key = words.collect::<Vec<_>>().join(" ");
    format!("entry {} of the price book ({key})", index + 1)
}

fn unknown_table(key: &str) -> PriceBookError {
    PriceBookError(format!("the price book holds `{key}`: it may only hold `[[price]]` entries"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{sample, usage::total_usage};
    use super::*;
    use crate::event::Call;

    fn page_cost(tts_provider: &'static str, tts_model: &'static str) -> Cost {
        let usage = sample::page_usage(tts_provider, tts_model);
        let usage = total_usage(&Call { usage, ..sample::call() }).unwrap();
        PriceBook::builtin().cost(&usage)
    }

    #[test]
    fn the_pages_usage_costs_what_its_listed_models_cost() {
        let cost = page_cost("chatterbox", "chatterbox-en-v1");
        assert_eq!(cost.micros, 9_873);
        assert_eq!(
            cost.breakdown,
            concat!(
                r#"{"lines":[{"kind":"llm","provider":"openai","model":"gpt-4o-mini","#,
                r#""cost_usd":"0.000643"},{"kind":"stt","provider":"openai","#,
                r#""model":"whisper-1","cost_usd":"0.009230"}],"unpriced":["#,
                r#"{"kind":"tts","provider":"chatterbox","model":"chatterbox-en-v1"}]}"#
            )
        );
        assert_eq!(unpriced_kinds(&cost.breakdown), BTreeSet::from([UsageKind::Tts]));
    }

    #[test]
    fn the_pages_usage_with_a_listed_voice_has_no_unpriced_part() {
        let cost = page_cost("api.openai.com", "tts-1");
        assert_eq!(cost.micros, 29_133);
        assert!(cost.breakdown.ends_with(r#""unpriced":[]}"#));
        assert_eq!(unpriced_kinds(&cost.breakdown), BTreeSet::new());
    }

    #[test]
    fn no_usage_costs_nothing() {
        let cost = PriceBook::builtin().cost(&Usage::default());
        assert_eq!(cost, Cost { micros: 0, breakdown: super::super::NO_COST.to_owned() });
    }

    fn book(entry: &str) -> Result<PriceBook, PriceBookError> {
        PriceBook::parse(&format!("[[price]]\n{entry}"))
    }

    fn line(kind: UsageKind, amounts: Amounts) -> Usage {
        let line = UsageLine { kind, provider: "p".to_owned(), model: "m".to_owned(), amounts };
        Usage { lines: vec![line] }
    }

    const LLM: &str = "kind=\"llm\"\nprovider=\"p\"\nmodel=\"m\"\nunit=\"1M tokens\"\n";
    const STT: &str = "kind=\"stt\"\nprovider=\"p\"\nmodel=\"m\"\n";

    #[test]
    fn cached_written_and_audio_tokens_have_their_own_prices() {
        let full = "input=\"1\"\ncached_input=\"0.1\"\ncache_write=\"1.25\"\naudio_input=\"10\"\n\
                    cached_audio_input=\"0.5\"\noutput=\"4\"\naudio_output=\"20\"";
        let amounts = Amounts {
            input_tokens: 1000,
            input_cached_tokens: 300,
            input_cache_creation_tokens: 100,
            input_audio_tokens: 200,
            input_cached_audio_tokens: 50,
            output_tokens: 60,
            output_audio_tokens: 40,
            ..Amounts::default()
        };
        let cost = |entry: &str| {
            let book = book(&format!("{LLM}{entry}")).unwrap();
            book.cost(&line(UsageKind::Llm, amounts)).micros
        };
        // 450 plain, 250 cached, 100 written, 150 audio, 50 cached audio; 20 text, 40 audio.
        assert_eq!(cost(full), 450 + 25 + 125 + 1500 + 25 + 80 + 800);
        assert_eq!(cost("input=\"1\"\noutput=\"4\""), 1000 + 240);
        assert_eq!(cost("input=\"1\"\ncached_input=\"0\"\noutput=\"4\""), 700 + 240);
    }

    #[test]
    fn no_token_is_paid_twice() {
        let prices = "input=\"1\"\ncached_input=\"0.5\"\naudio_input=\"10\"\n\
                      cached_audio_input=\"0.25\"\ncache_write=\"2\"\noutput=\"4\"";
        let book = book(&format!("{LLM}{prices}")).unwrap();
        let amounts = Amounts {
            input_tokens: 1000,
            input_cached_tokens: 900,
            input_audio_tokens: 500,
            input_cache_creation_tokens: 100,
            ..Amounts::default()
        };
        // 400 tokens must be cached audio; 500 are cached text, 100 are audio, none is left.
        assert_eq!(book.cost(&line(UsageKind::Llm, amounts)).micros, 100 + 250 + 1000);
    }

    #[test]
    fn speech_is_sold_by_time_by_characters_or_by_tokens() {
        let heard = |unit: &str, price: &str| {
            let book = book(&format!("{STT}unit=\"{unit}\"\nprice=\"{price}\"")).unwrap();
            let amounts = Amounts { audio_us: 92_300_000, ..Amounts::default() };
            book.cost(&line(UsageKind::Stt, amounts)).micros
        };
        assert_eq!(heard("second", "0.0001"), 9230);
        assert_eq!(heard("minute", "0.006"), 9230);
        assert_eq!(heard("hour", "0.36"), 9230);

        let tokens = book(&format!("{STT}unit=\"1M tokens\"\ninput=2\naudio_input=3")).unwrap();
        let amounts = Amounts { input_tokens: 100, input_audio_tokens: 90, ..Amounts::default() };
        assert_eq!(tokens.cost(&line(UsageKind::Stt, amounts)).micros, 290);
    }

    #[test]
    fn the_total_is_rounded_once_and_half_to_even() {
        let half = book(&format!("{LLM}input=\"0.5\"\noutput=\"0\"")).unwrap();
        for (tokens, micros) in [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4)] {
            let amounts = Amounts { input_tokens: tokens, ..Amounts::default() };
            assert_eq!(half.cost(&line(UsageKind::Llm, amounts)).micros, micros, "{tokens}");
        }
        // A third and a sixth of a micro-dollar are exactly a half.
        let thirds = PriceBook::parse(
            "[[price]]\nkind=\"stt\"\nprovider=\"p\"\nmodel=\"a\"\nunit=\"minute\"\nprice=\"1\"\n\
             [[price]]\nkind=\"stt\"\nprovider=\"p\"\nmodel=\"b\"\nunit=\"minute\"\nprice=\"1\"",
        )
        .unwrap();
        let part = |model: &str, audio_us| UsageLine {
            kind: UsageKind::Stt,
            provider: "p".to_owned(),
            model: model.to_owned(),
            amounts: Amounts { audio_us, ..Amounts::default() },
        };
        let usage = Usage { lines: vec![part("a", 20), part("b", 10)] };
        assert_eq!(thirds.cost(&usage).micros, 0);
        let usage = Usage { lines: vec![part("a", 20), part("b", 11)] };
        assert_eq!(thirds.cost(&usage).micros, 1);
    }

    #[test]
    fn what_was_metered_in_another_unit_has_no_price() {
        let book = book(&format!("{STT}unit=\"minute\"\nprice=\"1\"")).unwrap();
        let tokens = Amounts { input_tokens: 5, ..Amounts::default() };
        let cost = book.cost(&line(UsageKind::Stt, tokens));
        assert_eq!(cost.micros, 0);
        assert!(cost.breakdown.contains(r#""unpriced":[{"kind":"stt""#));
    }

    #[test]
    fn a_wrong_book_is_refused_by_the_entrys_name() {
        let good = format!("{LLM}input=\"1\"\noutput=\"4\"");
        for (entry, expected) in [
            (format!("{LLM}input=\"-1\"\noutput=\"4\""), "between 0 and 1000"),
            (format!("{LLM}input=\"1001\"\noutput=\"4\""), "between 0 and 1000"),
            (format!("{LLM}input=\"0.0000000001\"\noutput=\"4\""), "9 decimals"),
            (format!("{LLM}input=0.15\noutput=\"4\""), "in quotes"),
            (format!("{LLM}input=\"much\"\noutput=\"4\""), "no decimal number"),
            (format!("{LLM}output=\"4\""), "give `input`"),
            (format!("{LLM}input=\"1\""), "give `output`"),
            (format!("{LLM}price=\"1\"\ninput=\"1\"\noutput=\"4\""), "no `price`"),
            (format!("{good}\nouput=\"4\""), "unknown field `ouput`"),
            (format!("{STT}unit=\"fortnight\"\nprice=\"1\""), "unknown variant `fortnight`"),
            (format!("{STT}unit=\"1M characters\"\nprice=\"1\""), "\"hour\""),
            (format!("{STT}unit=\"minute\"\ninput=\"1\""), "give `price`"),
            (format!("{good}\n[[price]]\n{}", good.replace("\"p\"", "\" P \"")), "already"),
        ] {
            let error = book(&entry).unwrap_err().to_string();
            assert!(error.contains(expected), "{entry}\n{error}");
            assert!(error.contains("entry ") && error.contains(" of the price book"), "{error}");
        }
        assert!(PriceBook::parse("prices = 1").unwrap_err().0.contains("`prices`"));
        assert!(PriceBook::parse("[[price").unwrap_err().0.contains("no TOML"));
        assert!(book(&good).is_ok());
    }

    #[test]
    fn a_dated_model_is_another_model() {
        let usage = Usage {
            lines: vec![UsageLine {
                kind: UsageKind::Llm,
                provider: "openai".to_owned(),
                model: "gpt-4o-mini-2024-07-18".to_owned(),
                amounts: Amounts { input_tokens: 1_000_000, ..Amounts::default() },
            }],
        };
        assert_eq!(PriceBook::builtin().cost(&usage).micros, 0);
    }

    /// A price in billionths of a dollar, as written in a book.
    fn written(billionths: i64) -> String {
        format!("{}.{:09}", billionths / 1_000_000_000, billionths % 1_000_000_000)
    }

    const MOST: i64 = 1_000_000_000_000;

    proptest! {
        #[test]
        fn where_all_tokens_cost_the_same_their_parts_do_not_matter(
            amounts in proptest::array::uniform7(0..1000_i64),
        ) {
            let [input_tokens, cached, written, audio, cached_audio, output_tokens, spoken] = amounts;
            let amounts = Amounts {
                input_tokens,
                input_cached_tokens: cached,
                input_cache_creation_tokens: written,
                input_audio_tokens: audio,
                input_cached_audio_tokens: cached_audio,
                output_tokens,
                output_audio_tokens: spoken,
                ..Amounts::default()
            };
            let book = book(&format!("{LLM}input=\"1\"\noutput=\"1\"")).unwrap();
            let is_metered = input_tokens > 0 || output_tokens > 0;
            let expected = if is_metered { input_tokens + output_tokens } else { 0 };
            prop_assert_eq!(book.cost(&line(UsageKind::Llm, amounts)).micros, expected);
        }

        #[test]
        fn a_cost_equals_its_independent_sum(
            prices in proptest::array::uniform4(0..=1_000_000_000_000_i64),
            amounts in proptest::array::uniform4(0..=MOST),
        ) {
            let [input, output, minute, characters] = prices;
            let book = PriceBook::parse(&format!(
                "[[price]]\nkind='llm'\nprovider='p'\nmodel='m'\nunit='1M tokens'\n\
                 input='{}'\noutput='{}'\n[[price]]\nkind='stt'\nprovider='p'\nmodel='m'\n\
                 unit='minute'\nprice='{}'\n[[price]]\nkind='tts'\nprovider='p'\nmodel='m'\n\
                 unit='1M characters'\nprice='{}'",
                written(input), written(output), written(minute), written(characters),
            ))
            .unwrap();
            let [input_tokens, output_tokens, audio_us, characters_count] = amounts;
            let line = |kind, amounts| UsageLine {
                kind,
                provider: "p".to_owned(),
                model: "m".to_owned(),
                amounts,
            };
            let none = Amounts::default();
            let usage = Usage { lines: vec![
                line(UsageKind::Llm, Amounts { input_tokens, output_tokens, ..none }),
                line(UsageKind::Stt, Amounts { audio_us, ..none }),
                line(UsageKind::Tts, Amounts { characters_count, ..none }),
            ] };

            // In 10^-9 micro-dollars, times 60 for the minute.
            let product = |price: i64, amount: i64| i128::from(price) * i128::from(amount);
            let sum = 60 * (product(input, input_tokens)
                + product(output, output_tokens)
                + product(characters, characters_count))
                + product(minute, audio_us);
            let unit = 60_000_000_000_i128;
            let (whole, rest) = (sum / unit, sum % unit);
            let is_up = 2 * rest > unit || (2 * rest == unit && whole % 2 == 1);
            let expected = i64::try_from(whole + i128::from(is_up)).unwrap_or(i64::MAX);
            prop_assert_eq!(book.cost(&usage).micros, expected);
        }
    }
}
