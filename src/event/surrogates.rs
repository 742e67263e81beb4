//! Lone surrogates: `\ud83d` without its other half is legal JSON, but no text. Python writes it
//! when a stream of tokens was cut inside an emoji.

/// The JSON text with every lone surrogate escape replaced by U+FFFD; `None` if there is none.
pub(super) fn without_lone_surrogates(json: &str) -> Option<String> {
    let bytes = json.as_bytes();
    let mut repaired = String::new();
    let mut copied = 0;
    let mut position = 0;
    while let Some(offset) = memchr::memchr(b'\\', &bytes[position..]) {
        let escape = position + offset;
        position = match surrogate(bytes, escape) {
            // `\\`, `\n`, `\u0041`: two bytes on, no backslash of this escape is left.
            None => escape + 2,
            Some(Half::High) if surrogate(bytes, escape + 6) == Some(Half::Low) => escape + 12,
            Some(_) => {
                repaired.push_str(&json[copied..escape]);
                repaired.push_str("\\ufffd");
                copied = escape + 6;
                copied
            }
        };
        if position >= bytes.len() {
            break;
        }
    }
    if copied == 0 {
        return None;
    }
    repaired.push_str(&json[copied..]);
    Some(repaired)
}

#[derive(PartialEq, Eq)]
enum Half {
    High,
    Low,
}

/// Which half of a pair the escape at this offset is, if it is one.
fn surrogate(bytes: &[u8], escape: usize) -> Option<Half> {
    let digits = bytes.get(escape..escape + 6)?.strip_prefix(b"\\u")?;
    match digits {
        [b'd' | b'D', b'8' | b'9' | b'a' | b'b' | b'A' | b'B', rest @ ..] if is_hex(rest) => {
            Some(Half::High)
        }
        [b'd' | b'D', b'c'..=b'f' | b'C'..=b'F', rest @ ..] if is_hex(rest) => Some(Half::Low),
        _ => None,
    }
}

fn is_hex(digits: &[u8]) -> bool {
    digits.iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::without_lone_surrogates;

    #[test]
    fn a_lone_half_becomes_the_replacement_character() {
        let repaired = |json: &str| without_lone_surrogates(json);
        assert_eq!(repaired(r#""a\ud83d""#).unwrap(), r#""a\ufffd""#);
        assert_eq!(repaired(r#""\uDE00b""#).unwrap(), r#""\ufffdb""#);
        assert_eq!(repaired(r#""\ud83d\ud83d\ude00""#).unwrap(), r#""\ufffd\ud83d\ude00""#);
        assert_eq!(repaired(r#""\ude00\ud83d é""#).unwrap(), r#""\ufffd\ufffd é""#);
    }

    #[test]
    fn pairs_and_escaped_backslashes_stay_as_they_are() {
        for json in [r#""\ud83d\ude00""#, r#""\\ud83d""#, r#""\u0041\n""#, "{}", "", "\\", "\\ud8"]
        {
            assert_eq!(without_lone_surrogates(json), None, "{json}");
        }
    }
}
