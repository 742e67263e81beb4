//! How commands speak: results on standard output, remarks on standard error.

use std::io::{self, Write as _};

use comfy_table::{Cell, ColumnConstraint, ContentArrangement, LineStyle, Table, presets};
use serde::Serialize;
use serde_json::Value;
use terminal_size::{Width, terminal_size_of};

use super::Stop;

/// How long a list may be.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct LimitSettings {
    /// List at most so many
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) limit: u32,
}

/// What a command prints its result as.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct OutputSettings {
    /// Print JSON: `{"data": …}`
    #[arg(long, help_heading = None::<&'static str>)]
    pub(super) json: bool,
}

impl OutputSettings {
    /// Prints a list: a table with these columns, or JSON. `empty` is the sentence for people
    /// when there is nothing to list.
    pub(super) fn list<T: Serialize, const COLUMNS: usize>(
        self,
        items: &[T],
        columns: [&str; COLUMNS],
        row: impl Fn(&T) -> [String; COLUMNS],
        empty: &str,
    ) -> Result<(), Stop> {
        if self.json {
            return data(&items);
        }
        if items.is_empty() {
            remark(empty);
            return Ok(());
        }
        table(columns, items.iter().map(row))
    }
}

/// One line of the result.
pub(super) fn line(text: impl AsRef<str>) -> Result<(), Stop> {
    bytes(format!("{}\n", text.as_ref()).as_bytes())
}

/// A part of the result, as it is.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), Stop> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// The result as JSON, in the API's envelope for data.
pub(super) fn data(value: &impl Serialize) -> Result<(), Stop> {
    json(&serde_json::json!({ "data": value }))
}

/// A value as JSON, indented.
pub(super) fn json(value: &impl Serialize) -> Result<(), Stop> {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
    line(text)
}

/// A table. Cells come from outside: what would move a terminal's cursor is escaped.
pub(super) fn table<const COLUMNS: usize>(
    columns: [&str; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
) -> Result<(), Stop> {
    let mut table = Table::new();
    let separator = LineStyle::none().fill('─').junction(' ');
    table.load_style(presets::NOTHING.header_separator(separator));
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns);
    for row in rows {
        table.add_row(row.map(|cell| Cell::new(plain(&cell))));
    }
    if let Some((Width(terminal), _)) = terminal_size_of(io::stdout()) {
        wrap_last_column(&mut table, terminal);
    }
    line(table.trim_fmt())
}

/// A last column that is narrower than this is not worth wrapping into.
const NARROWEST: u16 = 30;

/// On a terminal sentences are wrapped; what is copied (ids, URLs) never is.
fn wrap_last_column(table: &mut Table, terminal: u16) {
    let widths = table.column_max_content_widths();
    let Some((_, others)) = widths.split_last() else { return };
    // Each has a space on both sides and one behind it.
    let taken = others.iter().fold(0_u16, |sum, width| sum.saturating_add(width.saturating_add(3)));
    let room = terminal.saturating_sub(taken);
    if room >= NARROWEST
        && let Some(column) = table.column_mut(others.len())
    {
        column.set_constraint(ColumnConstraint::UpperBoundary(comfy_table::Width::Fixed(room)));
    }
}

/// A result whose members are shown one by one.
pub(super) fn value(data: &impl Serialize) -> Value {
    serde_json::to_value(data).expect("results are plain data")
}

/// A member as a cell of a table: a time is cut to the second.
pub(super) fn cell(object: &Value, name: &str) -> String {
    let text = field(object, name);
    match text.split_once('.') {
        Some((seconds, rest)) if name.ends_with("_at") && rest.ends_with('Z') => {
            format!("{seconds}Z")
        }
        _ => text,
    }
}

/// A member of a JSON object as text; nothing when it is `null`.
pub(super) fn field(object: &Value, name: &str) -> String {
    match &object[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A JSON object for people: a line for each member that says something.
pub(super) fn members(object: &Value) -> Result<(), Stop> {
    for name in object.as_object().into_iter().flat_map(serde_json::Map::keys) {
        let text = field(object, name);
        if !text.is_empty() {
            line(format!("{name:>15}  {}", plain(&text)))?;
        }
    }
    Ok(())
}

/// A sentence beside the result, on standard error.
pub(super) fn remark(text: impl AsRef<str>) {
    // Nobody is left to tell that standard error is closed.
    let _ = writeln!(io::stderr(), "{}", text.as_ref());
}

/// The text without control characters: it may come from a file or from a publisher.
pub(super) fn plain(text: &str) -> String {
    let is_hidden =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) { plain.extend(c.escape_default()) } else { plain.push(c) }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sentences_are_wrapped_and_only_where_there_is_room() {
        let sentence = "Expected an integer of 64 bits, found a string.";
        let shown = |terminal| {
            let mut table = Table::new();
            table.load_style(presets::NOTHING);
            table.set_content_arrangement(ContentArrangement::Disabled);
            table.add_row(["01a2070c-b87c-7cd5-a530-6a929e457f35", sentence]);
            wrap_last_column(&mut table, terminal);
            table.trim_fmt()
        };
        assert_eq!(shown(200).lines().count(), 1);
        let wrapped = shown(80);
        assert!(wrapped.lines().count() == 2 && wrapped.contains("b87c-7cd5-a530"), "{wrapped}");
        assert!(wrapped.lines().all(|line| line.chars().count() <= 80), "{wrapped}");
        assert_eq!(shown(40).lines().count(), 1, "too narrow to be of use");
    }

    #[test]
    fn a_time_in_a_table_ends_with_its_seconds() {
        let object = serde_json::json!({ "last_seen_at": "2026-11-23T06:16:43.901386Z" });
        assert_eq!(cell(&object, "last_seen_at"), "2026-11-23T06:16:43Z");
    }

    #[test]
    fn text_from_outside_cannot_steer_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\u{202e}c\n"), "a\\u{1b}[2Jb\\u{202e}c\\n");
        assert_eq!(plain("Zürich – 東京"), "Zürich – 東京");
    }
}
