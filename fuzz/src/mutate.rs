//! Changes to JSON that leave it JSON: bytes alone would rarely get beyond the parser.

use serde_json::{Value, json};

/// Values at the borders of what decode takes, as JSON.
const ODD: [&str; 32] = [
    "null",
    "true",
    "0",
    "-0",
    "1",
    "-1",
    "1.5",
    "0.0000005",
    "1e11",
    "1e999",
    "1e-999",
    "100000000001",
    "1000000000000",
    "1000000000001",
    "253402300799",
    "-62167219200",
    "9223372036854775807",
    "-9223372036854775808",
    "99999999999999999999",
    "2147483647",
    "\"0000-01-01T00:00:00Z\"",
    "\"9999-12-31T23:59:59.999999Z\"",
    "\"2016-12-31T23:59:60Z\"",
    "\"\"",
    "\"user\"",
    "\"assistant\"",
    "\"\\ud83d\\u0000 <expr a> \\u2028\"",
    "[]",
    "{}",
    "{\"a\":1,\"a\":2}",
    "{\"kind\":\"messages\"}",
    "{\"type\":\"message\",\"role\":\"user\",\"content\":[5]}",
];

/// Stands for an odd value, which `Value` may not be able to hold.
const MARK: &str = "an odd value";

/// Changes the JSON in the first `size` bytes; returns its new size. None if it is no JSON, or
/// grew beyond `max_size`.
pub fn json(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> Option<usize> {
    let mut event: Value = serde_json::from_slice(&data[..size]).ok()?;
    let mut chance = Chance(u64::from(seed));
    let mut odd = "";
    for _ in 0..=chance.below(3) {
        odd = ODD[chance.below(ODD.len())];
        change(&mut event, &mut chance);
    }
    let changed = event.to_string().replace(&format!("\"{MARK}\""), odd);
    let is_room = changed.len() <= max_size.min(data.len());
    is_room.then(|| data[..changed.len()].copy_from_slice(changed.as_bytes()))?;
    Some(changed.len())
}

/// Changes one value, anywhere.
fn change(event: &mut Value, chance: &mut Chance) {
    let mut pointers = Vec::new();
    collect_pointers(event, String::new(), &mut pointers);
    let pick = |chance: &mut Chance| pointers[chance.below(pointers.len())].clone();
    let (place, source) = (pick(chance), pick(chance));
    let copy = event.pointer(&source).cloned().unwrap_or_default();
    let value = event.pointer_mut(&place).expect("it was seen there");
    match chance.below(6) {
        0 | 1 => *value = json!(MARK),
        2 => *value = copy,
        3 => nudge(value, chance),
        4 => multiply(value, chance),
        _ => remove(value, chance),
    }
}

fn nudge(value: &mut Value, chance: &mut Chance) {
    match value {
        Value::Number(number) => {
            let by = [1.0, -1.0, 0.001, 60.0, -60.0, 604_800.0, 1e9][chance.below(7)];
            *value = json!(number.as_f64().unwrap_or_default() + by);
        }
        Value::String(text) => {
            let added = ["\0", "\n", "\u{2028}", "<expr x>", " ", "é", "0", "Z", "/~"];
            text.push_str(added[chance.below(added.len())]);
        }
        Value::Bool(is_so) => *is_so = !*is_so,
        other => *other = json!(MARK),
    }
}

fn multiply(value: &mut Value, chance: &mut Chance) {
    match value {
        Value::Array(elements) if !elements.is_empty() => {
            let one = chance.below(elements.len());
            let other = chance.below(elements.len());
            elements.swap(one, other);
            elements.push(elements[one].clone());
        }
        Value::Object(members) => {
            members.insert("a/b~c".to_owned(), json!(MARK));
        }
        other => *other = json!([other]),
    }
}

fn remove(value: &mut Value, chance: &mut Chance) {
    match value {
        Value::Array(elements) if !elements.is_empty() => {
            elements.remove(chance.below(elements.len()));
        }
        Value::Object(members) if !members.is_empty() => {
            let name = members.keys().nth(chance.below(members.len())).cloned();
            members.remove(&name.expect("it is one of them"));
        }
        other => *other = Value::Null,
    }
}

fn collect_pointers(value: &Value, pointer: String, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let name = name.replace('~', "~0").replace('/', "~1");
                collect_pointers(member, format!("{pointer}/{name}"), found);
            }
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                collect_pointers(element, format!("{pointer}/{index}"), found);
            }
        }
        _ => {}
    }
    found.push(pointer);
}

struct Chance(u64);

impl Chance {
    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % limit
    }
}
