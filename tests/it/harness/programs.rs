//! Programs of others that customers use: each must be there, or the test fails and says what
//! installs it.

use std::process::{Command, Stdio};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::setting;

/// A program that scripts/test installs; nothing of our environment reaches it but the path.
pub(crate) fn program(name: &str) -> Command {
    let path = setting("PATH");
    let is_there = std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    assert!(is_there, "{name} is not installed: run `scripts/services install`");
    let mut command = Command::new(name);
    command.env_clear().env("PATH", path).stdin(Stdio::null());
    command
}

/// What curl was answered.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Fetched {
    /// The header, which must be there once: of two, each reader takes another.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let values: Vec<&str> =
            self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(values.len(), 1, "{name}: {values:?}");
        values[0]
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Fetches the URL with curl, as it stands.
pub(crate) fn curl(url: &str, arguments: &[&str]) -> Fetched {
    let output = program("curl")
        .args(["--silent", "--show-error", "--include", "--globoff", "--path-as-is"])
        .args(["--noproxy", "*", "--max-time", "20"])
        .args(arguments)
        .arg(url)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer = output.stdout;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = str::from_utf8(&answer[..end]).unwrap();
    let (status, headers) = head.split_once("\r\n").unwrap();
    let status = status.split(' ').nth(1).unwrap().parse().unwrap();
    let headers = headers.lines().map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        (HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap())
    });
    Fetched { status, headers: headers.collect(), body: answer[end + 4..].to_vec() }
}
