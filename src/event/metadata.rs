//! The customer's metadata: checked, made compact, and kept in its own order and digits.

use std::collections::BTreeSet;

use serde_json::value::RawValue;

use super::json::Json;
use super::members::{Members, push_token, read_value};
use super::{Metadata, Rejection, Text};

const MAX_BYTES: usize = 64 * 1024;
const MAX_DEPTH: usize = 32;

/// Reads an event's `metadata`; absent is `{}`.
pub(super) fn read(raw: Option<&RawValue>) -> Result<Metadata, Rejection> {
    let Some(raw) = raw.filter(|raw| raw.get() != "{}" && raw.get() != "null") else {
        return Ok(Metadata::empty());
    };
    if !raw.get().starts_with('{') {
        return Err(Rejection::invalid("/metadata", "Expected an object, found another value."));
    }
    let mut writer = Writer { pointer: "/metadata".to_owned(), compact: String::new() };
    writer.write(raw.get(), 1).map_err(shorten)?;
    Ok(Metadata(writer.compact))
}

/// The pointer is made of the customer's own keys: a long one is cut back to what is ours.
fn shorten(rejection: Rejection) -> Rejection {
    let is_long = rejection.pointer.as_ref().is_some_and(|pointer| pointer.len() > 256);
    if is_long {
        Rejection { pointer: Some("/metadata".to_owned()), ..rejection }
    } else {
        rejection
    }
}

struct Writer {
    pointer: String,
    compact: String,
}

impl Writer {
    fn write(&mut self, json: &str, depth: usize) -> Result<(), Rejection> {
        match json.as_bytes().first() {
            Some(b'{' | b'[') if depth > MAX_DEPTH => {
                return Err(
                    self.refuse(format!("Expected at most {MAX_DEPTH} levels, found more."))
                );
            }
            Some(b'{') => self.write_object(json, depth)?,
            Some(b'[') => self.write_array(json, depth)?,
            Some(b'"') => {
                let text: Text<'_> = read_value(json, &self.pointer)?;
                self.write_string(text.as_str())?;
            }
            Some(b'-' | b'0'..=b'9') if !json.parse().is_ok_and(f64::is_finite) => {
                return Err(self.refuse("Expected a number that fits into 64 bits."));
            }
            _ => self.compact.push_str(json),
        }
        if self.compact.len() > MAX_BYTES {
            let message =
                format!("Expected at most {MAX_BYTES} bytes of compact JSON, found more.");
            return Err(Rejection::invalid("/metadata", message));
        }
        Ok(())
    }

    fn write_object(&mut self, json: &str, depth: usize) -> Result<(), Rejection> {
        let members: Members<'_> = read_value(json, &self.pointer)?;
        let mut names = BTreeSet::new();
        let parent = self.pointer.len();
        self.compact.push('{');
        for (index, (name, value)) in members.0.iter().enumerate() {
            if index > 0 {
                self.compact.push(',');
            }
            push_token(&mut self.pointer, name.as_str());
            if !names.insert(name.as_str()) {
                return Err(self.refuse("Expected one field of this name, found several."));
            }
            self.write_string(name.as_str())?;
            self.compact.push(':');
            self.write(value.get(), depth + 1)?;
            self.pointer.truncate(parent);
        }
        self.compact.push('}');
        Ok(())
    }

    fn write_array(&mut self, json: &str, depth: usize) -> Result<(), Rejection> {
        let elements: Vec<&RawValue> = read_value(json, &self.pointer)?;
        let parent = self.pointer.len();
        self.compact.push('[');
        for (index, element) in elements.into_iter().enumerate() {
            if index > 0 {
                self.compact.push(',');
            }
            push_token(&mut self.pointer, &index.to_string());
            self.write(element.get(), depth + 1)?;
            self.pointer.truncate(parent);
        }
        self.compact.push(']');
        Ok(())
    }

    fn write_string(&mut self, text: &str) -> Result<(), Rejection> {
        if text.contains('\0') {
            return Err(self.refuse("Expected a string without U+0000, found one with it."));
        }
        self.compact.push_str(&serde_json::to_string(text).expect("a string serializes"));
        Ok(())
    }

    fn refuse(&self, message: impl Into<String>) -> Rejection {
        Rejection::invalid(&self.pointer, message)
    }
}

impl Metadata {
    /// Writes the object with its members sorted, for the digest.
    pub(super) fn write_sorted(&self, json: &mut Json) {
        write_sorted(json, &self.0);
    }
}

/// Writes checked, compact JSON with the members of its objects sorted, numbers digit for digit.
fn write_sorted(json: &mut Json, compact: &str) {
    let checked = "metadata is checked JSON";
    match compact.as_bytes().first() {
        Some(b'{') => {
            let mut members: Members<'_> = serde_json::from_str(compact).expect(checked);
            members.0.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
            json.object(|json| {
                for (name, value) in &members.0 {
                    write_sorted(json.named(name.as_str()), value.get());
                }
            });
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> = serde_json::from_str(compact).expect(checked);
            json.list(elements, |json, element| write_sorted(json, element.get()));
        }
        _ => json.raw(compact),
    }
}
