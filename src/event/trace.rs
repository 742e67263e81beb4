//! Which trace an event belongs to: a W3C `traceparent`, which the webhook carries on.

use std::fmt;

/// The place of something in a trace, as <https://www.w3.org/TR/trace-context/> writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The span in it that comes before.
    pub parent_id: [u8; 8],
    /// Whether it is sampled, and whether its id is random; later flags are not known to us, and
    /// are not carried on.
    pub flags: u8,
}

/// Of version 00, which later versions begin with.
const LENGTH: usize = 55;
const SAMPLED: u8 = 0b01;
const RANDOM: u8 = 0b10;

impl TraceParent {
    /// The trace that a header tells of; `None` if the header is not valid.
    pub fn parse(text: &str) -> Option<Self> {
        let (known, rest) = text.as_bytes().split_at_checked(LENGTH)?;
        let [version, trace_id, parent_id, flags] =
            [0..2, 3..35, 36..52, 53..55].map(|place| &known[place]);
        let is_divided = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        let [version]: [u8; 1] = lower_hex(version)?;
        // Later versions may say more.
        let is_whole = rest.is_empty() || (version > 0 && rest[0] == b'-');
        let [flags]: [u8; 1] = lower_hex(flags)?;
        let flags = flags & (SAMPLED | RANDOM);
        let trace =
            Self { trace_id: lower_hex(trace_id)?, parent_id: lower_hex(parent_id)?, flags };
        let has_ids = trace.trace_id != [0; 16] && trace.parent_id != [0; 8];
        (version != 0xff && is_divided && is_whole && has_ids).then_some(trace)
    }

    /// Whoever began the trace wants to see it.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

fn lower_hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let is_lower = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).ok().filter(|()| is_lower)?;
    Some(bytes)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace_id, parent_id, flags } = self;
        write!(f, "00-{}-{}-{flags:02x}", hex::encode(trace_id), hex::encode(parent_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_header_comes_out_as_it_went_in() {
        let trace = TraceParent::parse(VALID).unwrap();
        assert_eq!(trace.to_string(), VALID);
        assert!(trace.is_sampled());
        let unsampled = TraceParent::parse(&VALID.replace("-01", "-00")).unwrap();
        assert!(!unsampled.is_sampled());
    }

    #[test]
    fn of_a_later_version_what_we_know_is_read_and_the_flags_that_we_know() {
        let later = VALID.replace("00-4bf", "cc-4bf").replace("-01", "-f3");
        for text in [later.clone(), format!("{later}-what-the-future-will-be-like")] {
            let trace = TraceParent::parse(&text).unwrap();
            assert_eq!(trace.to_string(), VALID.replace("-01", "-03"));
        }
        assert_eq!(TraceParent::parse(&format!("{later}.")), None);
        assert_eq!(TraceParent::parse(&format!("{later}0")), None);
    }

    #[test]
    fn what_is_not_valid_is_no_trace() {
        let zero_trace = VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let zero_parent = VALID.replace("00f067aa0ba902b7", &"0".repeat(16));
        for text in [
            "",
            "00-1-2-01",
            &VALID[..54],
            &format!("{VALID}-"),
            &format!("{VALID}0"),
            &VALID.to_uppercase(),
            &VALID.replace("00-4bf", "ff-4bf"),
            &VALID.replace("00-4bf", "0x-4bf"),
            &VALID.replace('-', "_"),
            &VALID.replace("36-00", "36:00"),
            &zero_trace,
            &zero_parent,
            &VALID.replace("4bf9", "4bfä"),
            &VALID.replace("4bf9", "4bg9"),
        ] {
            assert_eq!(TraceParent::parse(text), None, "{text:?}");
        }
    }
}
