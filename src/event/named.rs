//! Whose event it is, as far as the bytes of one that cannot be read tell.

use super::decode::beginning;
use super::members::Members;
use super::scalar::MAX_NAME_BYTES;

/// The tenant and the character that an event names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// `tenant_id`.
    pub tenant_id: Option<String>,
    /// `character_slug`.
    pub character_slug: Option<String>,
}

impl Named {
    /// Of an event that could be read.
    pub fn new(tenant_id: &str, character_slug: &str) -> Self {
        Self {
            tenant_id: Some(tenant_id.to_owned()),
            character_slug: Some(character_slug.to_owned()),
        }
    }

    /// As the beginning of an event tells that could not be read.
    pub fn in_event(bytes: &[u8]) -> Self {
        let members = Members::before_error(beginning(bytes));
        let name = |member: &str| {
            let text = members.text(member)?;
            let text = text.as_str();
            let is_name = !text.is_empty() && text.len() <= MAX_NAME_BYTES && !text.contains('\0');
            is_name.then(|| text.to_owned())
        };
        Self { tenant_id: name("tenant_id"), character_slug: name("character_slug") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_before_the_place_where_an_event_is_broken() {
        let named = |text: &str| Named::in_event(text.as_bytes());
        assert_eq!(
            named(r#"{"tenant_id": "acme", "character_slug": "bot", "started_at": nope"#),
            Named::new("acme", "bot")
        );
        let acme = Named { tenant_id: Some("acme".to_owned()), character_slug: None };
        assert_eq!(named(r#"{"tenant_id": "acme", "character_slug": 7}"#), acme);
        for text in ["", "[]", "\u{1}", r#"{"tenant_id": "a\u0000", "character_slug": ""}"#] {
            assert_eq!(named(text), Named::default(), "{text}");
        }
        assert_eq!(Named::in_event(b"{\"tenant_id\": \"\xff\"}"), Named::default());
        let long = format!(r#"{{"tenant_id": "{}"}}"#, "x".repeat(513));
        assert_eq!(named(&long), Named::default());
    }
}
