//! Event files, for the commands that read them: their events, and a bar that shows how far.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::event::Rejection;
use crate::intake::RawEvent;
use crate::intake::file::{self, FileError};

use super::{Stop, output};

/// Tells at once which files are not there, before anything has been done with the others.
pub(super) fn require(files: &[PathBuf]) -> Result<(), Stop> {
    for path in files.iter().filter(|path| !is_stdin(path)) {
        if let Err(error) = std::fs::File::open(path) {
            return Err(Stop::Usage(format!("cannot read {}: {error}", path.display())));
        }
    }
    Ok(())
}

/// The events of all files, in order. A file is opened when its turn comes.
pub(super) fn events(files: &[PathBuf]) -> impl Iterator<Item = Result<RawEvent, FileError>> {
    files.iter().flat_map(|path| match file::events(path) {
        Ok(events) => events,
        Err(error) => Box::new(std::iter::once(Err(error))),
    })
}

/// A bar on a terminal; nothing elsewhere. It counts bytes: only those are known before.
pub(super) fn progress(files: &[PathBuf]) -> ProgressBar {
    let sizes = files.iter().map(|path| std::fs::metadata(path).map(|file| file.len()));
    let total = sizes.sum::<std::io::Result<u64>>().ok();
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{bar:40} {percent:>3} %  {elapsed}"),
        None => (ProgressBar::no_length(), "{spinner} {bytes}  {elapsed}"),
    };
    bar.set_style(ProgressStyle::with_template(template).expect("the templates are constants"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Tells of one event, on one line, above the bar. `file:` goes without saying.
pub(super) fn tell(bar: &ProgressBar, source: &str, what: &str) {
    let place = source.strip_prefix("file:").unwrap_or(source);
    let line = output::plain(&format!("{place}  {what}"));
    bar.suspend(|| output::remark(line));
}

/// Tells of an event that cannot be finalized.
pub(super) fn tell_rejection(bar: &ProgressBar, source: &str, rejection: &Rejection) {
    // An empty pointer means the whole event.
    let pointer = rejection.pointer.as_ref().filter(|pointer| !pointer.is_empty());
    let pointer = pointer.map(|pointer| format!("{pointer}  ")).unwrap_or_default();
    tell(bar, source, &format!("{}  {pointer}{}", rejection.code, rejection.message));
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}
