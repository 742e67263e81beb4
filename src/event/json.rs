//! JSON written piece by piece, byte for byte as `serde_json` would write it: for what is made of
//! every event.

/// A JSON text in the making.
#[derive(Debug, Default)]
pub(crate) struct Json(String);

impl Json {
    /// Nothing yet, with room for so many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(String::with_capacity(bytes))
    }

    /// The text.
    pub(crate) fn into_text(self) -> String {
        self.0
    }

    /// An object, whose members `write` writes.
    pub(crate) fn object(&mut self, write: impl FnOnce(&mut Self)) {
        self.0.push('{');
        write(self);
        self.0.push('}');
    }

    /// A member's name, which needs no escapes. Its value is to follow.
    #[inline]
    pub(crate) fn member(&mut self, name: &'static str) -> &mut Self {
        self.0.push_str(if self.begins(b'{') { "\"" } else { ",\"" });
        self.0.push_str(name);
        self.0.push_str("\":");
        self
    }

    /// A member whose name may hold anything. Its value is to follow.
    pub(crate) fn named(&mut self, name: &str) -> &mut Self {
        if !self.begins(b'{') {
            self.0.push(',');
        }
        self.string(name);
        self.0.push(':');
        self
    }

    /// A list, whose elements `write` writes one by one.
    pub(crate) fn list<T>(
        &mut self,
        elements: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        self.0.push('[');
        for element in elements {
            if !self.begins(b'[') {
                self.0.push(',');
            }
            write(self, element);
        }
        self.0.push(']');
    }

    /// An object or a list has nothing in it yet: no value ends as they begin.
    fn begins(&self, bracket: u8) -> bool {
        self.0.as_bytes().last() == Some(&bracket)
    }

    /// A string.
    #[inline]
    pub(crate) fn string(&mut self, text: &str) {
        if has_escapes(text) {
            self.0.push_str(&serde_json::to_string(text).expect("a string serializes"));
            return;
        }
        self.0.push('"');
        self.0.push_str(text);
        self.0.push('"');
    }

    /// A whole number.
    pub(crate) fn integer(&mut self, number: impl itoa::Integer) {
        self.0.push_str(itoa::Buffer::new().format(number));
    }

    /// So many thousandths, as the float that is nearest to them is written: `184.7`, `3.0`. For
    /// what is below 10^16.
    pub(crate) fn thousandths(&mut self, number: i64) {
        if number < 0 {
            self.0.push('-');
        }
        let number = number.unsigned_abs();
        self.integer(number / 1000);
        self.0.push('.');
        let decimals = [number / 100 % 10, number / 10 % 10, number % 10];
        let length = decimals.iter().rposition(|digit| *digit > 0).map_or(1, |last| last + 1);
        for digit in &decimals[..length] {
            self.integer(*digit);
        }
    }

    /// What is JSON already.
    pub(crate) fn raw(&mut self, json: &str) {
        self.0.push_str(json);
    }
}

/// Looks at all bytes whatever is found: so it is done many at once.
fn has_escapes(text: &str) -> bool {
    let is_escaped = |byte| matches!(byte, ..b' ' | b'"' | b'\\');
    text.bytes().fold(0, |found, byte| found | u8::from(is_escaped(byte))) > 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn string(text: &str) -> String {
        let mut json = Json::default();
        json.string(text);
        json.into_text()
    }

    #[test]
    fn every_character_of_ascii_is_escaped_as_serde_json_does() {
        for byte in 0..=127_u8 {
            for text in [char::from(byte).to_string(), format!("é{}, and more", char::from(byte))]
            {
                assert_eq!(string(&text), serde_json::to_string(&text).unwrap());
            }
        }
    }

    #[test]
    fn members_and_elements_are_divided_by_commas() {
        let mut json = Json::with_capacity(64);
        json.object(|json| {
            json.member("a").list([1, -2], Json::integer);
            json.member("b").list(["{", "["], Json::string);
            json.named("\"").object(|_| ());
            json.member("c").raw("null");
        });
        assert_eq!(json.into_text(), r#"{"a":[1,-2],"b":["{","["],"\"":{},"c":null}"#);
    }

    proptest! {
        #[test]
        fn strings_are_written_as_serde_json_writes_them(text in "(?s).{0,40}") {
            prop_assert_eq!(string(&text), serde_json::to_string(&text).unwrap());
        }

        #[test]
        fn thousandths_are_written_as_serde_json_writes_floats(number in -10_i64.pow(15)..10_i64.pow(15), digits in 0..15_u32) {
            let number = number / 10_i64.pow(digits);
            let mut json = Json::default();
            json.thousandths(number);
            #[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
            let float = number as f64 / 1000.0;
            prop_assert_eq!(json.into_text(), serde_json::to_string(&float).unwrap());
        }
    }
}
