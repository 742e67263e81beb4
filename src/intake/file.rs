//! Events from files: one JSON document a file, or NDJSON.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::RawEvent;

/// More of one event is not read into memory.
pub const MAX_BYTES: u64 = 32 << 20;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}", .path.display())]
pub struct FileError {
    path: PathBuf,
    source: io::Error,
}

/// The events of a file, in order, each named `file:NAME` or `file:NAME:LINE`. `-` is standard
/// input. `.ndjson`, `.jsonl` and standard input are NDJSON, everything else is one document.
/// Empty lines are passed over.
pub fn events(
    path: &Path,
) -> Result<Box<dyn Iterator<Item = Result<RawEvent, FileError>>>, FileError> {
    if path == Path::new("-") {
        return Ok(Box::new(lines(path.to_path_buf(), "-".to_owned(), io::stdin().lock())));
    }
    let failed = |source| FileError { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(failed)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_ndjson = path.extension().is_some_and(|e| e == OsStr::new("ndjson") || e == "jsonl");
    if is_ndjson {
        return Ok(Box::new(lines(path.to_path_buf(), name, BufReader::new(file))));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    let source = format!("file:{name}").into();
    Ok(Box::new(std::iter::once(Ok(RawEvent { bytes: Bytes::from(bytes), source, headers: None }))))
}

/// The events of NDJSON.
fn lines(
    path: PathBuf,
    name: String,
    mut reader: impl BufRead,
) -> impl Iterator<Item = Result<RawEvent, FileError>> {
    let mut number = 0_u64;
    std::iter::from_fn(move || {
        loop {
            number += 1;
            let bytes = match line(&mut reader) {
                Ok(None) => return None,
                Ok(Some(bytes)) => bytes,
                Err(source) => return Some(Err(FileError { path: path.clone(), source })),
            };
            if !bytes.trim_ascii().is_empty() {
                let source = format!("file:{name}:{number}").into();
                return Some(Ok(RawEvent { bytes: Bytes::from(bytes), source, headers: None }));
            }
        }
    })
}

/// One line without its end; of a longer one than [`MAX_BYTES`] the beginning.
fn line(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    if reader.by_ref().take(MAX_BYTES + 1).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    } else if bytes.len() as u64 > MAX_BYTES {
        reader.skip_until(b'\n')?;
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_and_empty_ones_passed_over() {
        let text: &[u8] = b"{\"a\":1}\n\n  \r\n{\"b\":2}";
        let events: Vec<RawEvent> =
            lines(PathBuf::from("x"), "x.ndjson".to_owned(), text).map(Result::unwrap).collect();
        let sources: Vec<&str> = events.iter().map(|event| &*event.source).collect();
        assert_eq!(sources, ["file:x.ndjson:1", "file:x.ndjson:4"]);
        assert_eq!(&events[1].bytes[..], b"{\"b\":2}");
    }
}
