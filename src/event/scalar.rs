//! The wire's small values: bounded strings, times, counts. Each checks itself while it is read,
//! so that a failure points at the very value.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Text;

/// The longest string that names something, in bytes.
pub(super) const MAX_NAME_BYTES: usize = 512;

/// The longest URL, and the longest object key, in bytes.
pub(super) const MAX_ADDRESS_BYTES: usize = 2048;

/// No call uses more tokens or characters of one model: with it, sums cannot overflow.
pub(super) const MAX_COUNT: i64 = 1_000_000_000_000;

/// No call lasts longer, in seconds (115 days).
pub(super) const MAX_SECONDS: i64 = 10_000_000;

/// A string without U+0000 of at most `LIMIT` bytes.
#[derive(Debug)]
pub(super) struct Bounded<'a, const LIMIT: usize>(pub(super) Text<'a>);

/// A string that names something.
pub(super) type Name<'a> = Bounded<'a, MAX_NAME_BYTES>;

/// A URL or an object's key.
pub(super) type Address<'a> = Bounded<'a, MAX_ADDRESS_BYTES>;

/// A string without U+0000, of any length.
pub(super) type Words<'a> = Bounded<'a, { usize::MAX }>;

impl<'a, const LIMIT: usize> Bounded<'a, LIMIT> {
    /// The string, unless it is empty: an empty name names nothing.
    pub(super) fn unless_empty(self) -> Option<Text<'a>> {
        if self.0.as_str().is_empty() { None } else { Some(self.0) }
    }
}

impl<'de: 'a, 'a, const LIMIT: usize> Deserialize<'de> for Bounded<'a, LIMIT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer)?;
        if text.as_str().len() > LIMIT {
            return Err(D::Error::custom(format_args!(
                "expected at most {LIMIT} bytes, found {}",
                text.as_str().len()
            )));
        }
        // JSON has it as an escape alone, and what has escapes is no piece of the event's bytes.
        let is_as_sent = matches!(text.0, Cow::Borrowed(_));
        if !is_as_sent && text.as_str().contains('\0') {
            return Err(D::Error::custom("expected a string without U+0000, found one with it"));
        }
        Ok(Self(text))
    }
}

/// A JSON object and nothing else: the readers that serde derives would take an array, too.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// A string where other values have no meaning for us: they read as `None`.
#[derive(Debug, Default)]
pub(super) struct MaybeText<'a>(pub(super) Option<Text<'a>>);

impl MaybeText<'_> {
    /// The string, or "" when it is none.
    pub(super) fn as_str(&self) -> &str {
        self.0.as_ref().map_or("", Text::as_str)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for MaybeText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MaybeTextVisitor)
    }
}

struct MaybeTextVisitor;

impl<'de> Visitor<'de> for MaybeTextVisitor {
    type Value = MaybeText<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(MaybeText(Some(Text(Cow::Borrowed(text)))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(MaybeText(Some(Text(Cow::Owned(text.to_owned())))))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(MaybeText(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(MaybeText(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(MaybeText(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(MaybeText(None))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(MaybeText(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(MaybeText(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(MaybeText(None))
    }
}

/// A moment: an RFC 3339 string or an epoch number, in seconds or (above 1e11) milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub(super) DateTime<Utc>);

const TIME: &str = "expected an RFC 3339 time with its offset, or seconds or milliseconds since \
                    1970, in the years 0 to 9999";

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        time(raw.get()).map(Self).ok_or_else(|| {
            D::Error::custom(format_args!("{TIME}, found {}", kind_of(raw.get(), "another text")))
        })
    }
}

/// 0000-01-01T00:00:00Z.
const FIRST_MICROS: i64 = -62_167_219_200_000_000;
/// 9999-12-31T23:59:59.999999Z.
const LAST_MICROS: i64 = 253_402_300_799_999_999;

fn time(json: &str) -> Option<DateTime<Utc>> {
    let micros = if json.starts_with('"') {
        let text: Text<'_> = serde_json::from_str(json).ok()?;
        DateTime::parse_from_rfc3339(text.as_str()).ok()?.timestamp_micros()
    } else {
        let as_seconds = scaled(json, 6)?;
        let is_milliseconds = as_seconds > 100_000_000_000 * 1_000_000;
        let micros = if is_milliseconds { scaled(json, 3)? } else { as_seconds };
        i64::try_from(micros).ok()?
    };
    if !(FIRST_MICROS..=LAST_MICROS).contains(&micros) {
        return None;
    }
    DateTime::from_timestamp_micros(micros)
}

/// A length of time in seconds, at least 0, as microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seconds(pub(super) i64);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        // One digit more than is kept, to round by: the sums that workers send end in …99983.
        scaled(raw.get(), 7)
            .map(|tenths| (tenths + 5).div_euclid(10))
            .filter(|_| !is_negative(raw.get()))
            .filter(|micros| *micros <= i128::from(MAX_SECONDS) * 1_000_000)
            .and_then(|micros| i64::try_from(micros).ok())
            .map(Self)
            .ok_or_else(|| {
                D::Error::custom(format_args!(
                    "expected seconds from 0 to {MAX_SECONDS}, found {}",
                    kind_of(raw.get(), "a string")
                ))
            })
    }
}

/// A length of time in milliseconds, at least 0; parts of a millisecond are cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Milliseconds(pub(super) i64);

impl<'de> Deserialize<'de> for Milliseconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        scaled(raw.get(), 0)
            .filter(|_| !is_negative(raw.get()))
            .filter(|millis| *millis <= i128::from(MAX_SECONDS) * 1000)
            .and_then(|millis| i64::try_from(millis).ok())
            .map(Self)
            .ok_or_else(|| {
                D::Error::custom(format_args!(
                    "expected milliseconds from 0 to {}, found {}",
                    MAX_SECONDS * 1000,
                    kind_of(raw.get(), "a string")
                ))
            })
    }
}

/// A whole number of things. Python and JavaScript write some of them as `12.0`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count(pub(super) i64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        count(raw.get()).map(Self).ok_or_else(|| {
            D::Error::custom(format_args!(
                "expected a whole number from 0 to {MAX_COUNT}, found {}",
                kind_of(raw.get(), "a string")
            ))
        })
    }
}

fn count(json: &str) -> Option<i64> {
    // Twelve decimals: more than a count that went through a float can differ by.
    let trillionths = scaled(json, 12)?;
    let count = i64::try_from(trillionths / 1_000_000_000_000).ok()?;
    let is_whole = trillionths % 1_000_000_000_000 == 0;
    (is_whole && (0..=MAX_COUNT).contains(&count)).then_some(count)
}

/// A 64-bit integer, written as a number or, as Protobuf's JSON does, as a string.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Int64(pub(super) i64);

impl<'de> Deserialize<'de> for Int64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        int64(raw.get()).map(Self).ok_or_else(|| {
            D::Error::custom(format_args!(
                "expected an integer of 64 bits, found {}",
                kind_of(raw.get(), "another text")
            ))
        })
    }
}

fn int64(json: &str) -> Option<i64> {
    if json.starts_with('"') {
        let text: Text<'_> = serde_json::from_str(json).ok()?;
        return text.as_str().parse().ok();
    }
    i64::try_from(scaled(json, 0)?).ok()
}

fn is_negative(json: &str) -> bool {
    json.starts_with('-') && json.bytes().any(|byte| (b'1'..=b'9').contains(&byte))
}

/// A JSON number times ten to the power of `decimals`, further decimals cut; `None` if it is no
/// number or has no place in an `i128`. Read from its digits: a float would depend on how it was
/// rounded, and digests must not.
fn scaled(json: &str, decimals: u8) -> Option<i128> {
    if let Some(number) = scaled_short(json.as_bytes(), decimals) {
        return Some(i128::from(number));
    }
    scaled_long(json, decimals)
}

/// The same for all numbers.
fn scaled_long(json: &str, decimals: u8) -> Option<i128> {
    if json.contains(['e', 'E']) {
        return scaled_float(json, decimals);
    }
    let (sign, digits) = json.strip_prefix('-').map_or((1, json), |digits| (-1, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut number: i128 = whole.parse().ok()?;
    let mut fraction = fraction.bytes();
    for _ in 0..decimals {
        let digit = fraction.next().map_or(0, |digit| digit.wrapping_sub(b'0'));
        number = number.checked_mul(10)?.checked_add(i128::from(digit))?;
    }
    Some(sign * number)
}

/// The same for what nearly all numbers are: digits that fit into 64 bits, without an exponent.
fn scaled_short(json: &[u8], decimals: u8) -> Option<i64> {
    /// So many digits always fit.
    const MOST_DIGITS: usize = 18;
    let (sign, json) = json.strip_prefix(b"-").map_or((1, json), |digits| (-1, digits));
    let decimals = usize::from(decimals);
    let (mut number, mut length) = (0_i64, 0);
    while let Some(digit @ b'0'..=b'9') = json.get(length) {
        number = number.wrapping_mul(10).wrapping_add(i64::from(digit - b'0'));
        length += 1;
    }
    let fraction = match &json[length..] {
        _ if length + decimals > MOST_DIGITS => return None,
        [] => &[],
        [b'.', fraction @ ..] => fraction,
        _ => return None,
    };
    for place in 0..decimals {
        number = 10 * number
            + match fraction.get(place) {
                Some(digit @ b'0'..=b'9') => i64::from(digit - b'0'),
                Some(_) => return None,
                None => 0,
            };
    }
    fraction.iter().skip(decimals).all(u8::is_ascii_digit).then_some(sign * number)
}

/// Numbers with an exponent: rare, and never exact.
fn scaled_float(json: &str, decimals: u8) -> Option<i128> {
    let number = json.parse::<f64>().ok()? * 10_f64.powi(i32::from(decimals));
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked before")]
    (number.abs() < 1e30).then_some(number as i128)
}

/// What a JSON value is, in words that repeat nothing of it. `string` is what to call a string.
pub(super) fn kind_of<'k>(json: &str, string: &'k str) -> &'k str {
    match json.bytes().next() {
        Some(b'"') => string,
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ if is_negative(json) => "a negative number",
        _ => "another number",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_numbers_with_short_whole_parts_are_short() {
        assert_eq!(scaled_short(b"-12.3456789", 6), Some(-12_345_678));
        assert_eq!(scaled_short(b"1780000000.123456789", 6), Some(1_780_000_000_123_456));
        assert_eq!(scaled_short(b"999999999999", 6), Some(999_999_999_999_000_000));
        assert_eq!(scaled_short(b"1000000000000", 6), None);
        for other in ["1e3", "\"1\"", "true", "1.5E2", "1.2.3"] {
            assert_eq!(scaled_short(other.as_bytes(), 3), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn short_numbers_are_read_like_all_others(
            json in "-?(0|[1-9][0-9]{0,20})([.][0-9]{1,20})?",
            decimals in 0_u8..13,
        ) {
            if let Some(number) = scaled_short(json.as_bytes(), decimals) {
                prop_assert_eq!(Some(i128::from(number)), scaled_long(&json, decimals));
            }
        }
    }
}
