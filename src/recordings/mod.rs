//! Where recordings lie: S3 buckets and folders. Nothing outside them is ever looked at or signed.
//! The sweep finds out what became of recordings that nobody speaks of.

mod folder;
mod links;
mod s3;
mod sweep;

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};

use folder::Folder;
pub use links::LinkError;
use links::Links;
use s3::{Bucket, S3};
pub use sweep::{Sweep, SweepParts};

/// What [`Places`] is made of.
#[derive(Clone)]
pub struct PlacesSettings<'a> {
    /// Folders and `s3://bucket[/prefix]`; the first is the default.
    pub places: &'a [String],
    /// What stands before `/recordings/…` in links to files of a folder.
    pub public_url: &'a str,
    /// The key that signs those links.
    pub link_key: [u8; 32],
    /// How long links work; at most 7 days.
    pub link_lifetime: Duration,
}

/// A setting that makes no sense, in one sentence.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingError(String);

/// Why a place could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The URL lies in none of the places: it is not ours to ask for.
    #[error("{0} lies in none of the recordings places")]
    Outside(String),
    /// The place does not answer, or not to us. Says which and why.
    #[error("{place}: {reason}")]
    Unavailable {
        /// The place.
        place: String,
        /// In words.
        reason: String,
    },
}

/// A file that may be played now.
#[derive(Debug, PartialEq, Eq)]
pub struct Playable {
    /// Where it is; no symbolic links left.
    pub path: PathBuf,
    /// What it is.
    pub content_type: &'static str,
}

/// All places, in the order of the settings.
pub struct Places {
    all: Vec<Place>,
    links: Links,
    s3: S3,
}

enum Place {
    Folder(Folder),
    Bucket(Bucket),
}

/// A recording inside a place.
enum Recording<'a> {
    File { folder: &'a Folder, path: &'a str },
    Object { bucket: &'a Bucket, key: &'a str },
}

impl Places {
    /// Reads the settings. Touches neither disk nor network.
    pub fn new(settings: &PlacesSettings<'_>) -> Result<Self, SettingError> {
        let places =
            settings.places.iter().map(|text| Place::parse(text)).collect::<Result<Vec<_>, _>>()?;
        if places.is_empty() {
            return Err(SettingError("give at least one place for recordings".to_owned()));
        }
        let links = Links::new(settings.public_url, settings.link_key, settings.link_lifetime)?;
        Ok(Self { all: places, links, s3: S3::new(settings.link_lifetime) })
    }

    /// Where a recording lies whose report names no bucket: `s3://bucket[/prefix]` or
    /// `file:///folder`.
    pub fn default_url(&self) -> String {
        self.all.first().expect("there is at least one place").url()
    }

    /// A time-limited https URL that plays the recording, if it lies in a place.
    pub async fn presign(&self, recording_url: &str, now: DateTime<Utc>) -> Option<String> {
        match self.find(recording_url)? {
            Recording::File { folder, path } => {
                folder.open(path).await?;
                Some(self.links.link(&folder.url_of(path), path, now))
            }
            Recording::Object { bucket, key } => {
                let signed = self.s3.presign(bucket, key, content_type(key), now).await;
                signed
                    .inspect_err(|error| tracing::warn!(%error, "a recording's URL was not signed"))
                    .ok()
            }
        }
    }

    /// How many bytes the recording has; `None` if it is not there.
    pub async fn head(&self, recording_url: &str) -> Result<Option<u64>, PlaceError> {
        match self.find(recording_url) {
            None => Err(PlaceError::Outside(recording_url.to_owned())),
            Some(Recording::File { folder, path }) => folder.size(path).await,
            Some(Recording::Object { bucket, key }) => self.s3.size(bucket, key).await,
        }
    }

    /// Deletes the recording, if it is there.
    pub async fn delete(&self, recording_url: &str) -> Result<(), PlaceError> {
        match self.find(recording_url) {
            None => Err(PlaceError::Outside(recording_url.to_owned())),
            Some(Recording::File { folder, path }) => folder.delete(path).await,
            Some(Recording::Object { bucket, key }) => self.s3.delete(bucket, key).await,
        }
    }

    /// Can every place be reached and read? One result a place, with its URL.
    pub async fn check(&self) -> Vec<(String, Result<(), PlaceError>)> {
        let mut results = Vec::with_capacity(self.all.len());
        for place in &self.all {
            let result = match place {
                Place::Folder(folder) => folder.check().await,
                Place::Bucket(bucket) => self.s3.check(bucket).await,
            };
            results.push((place.url(), result));
        }
        results
    }

    /// The file that a link made by [`Places::presign`] names: `path`, `expires` and `signature`
    /// are the link's own words.
    pub async fn open_link(
        &self,
        path: &str,
        expires: &str,
        signature: &str,
        now: DateTime<Utc>,
    ) -> Result<Playable, LinkError> {
        let is_signed = |folder: &&Folder| {
            is_plain(path) && self.links.is_signed(&folder.url_of(path), expires, signature)
        };
        let folder = self.folders().find(is_signed).ok_or(LinkError::Forged)?;
        Links::check_expiry(expires, now)?;
        let file = folder.open(path).await.ok_or(LinkError::Gone)?;
        Ok(Playable { path: file, content_type: content_type(path) })
    }

    fn folders(&self) -> impl Iterator<Item = &Folder> {
        self.all.iter().filter_map(|place| match place {
            Place::Folder(folder) => Some(folder),
            Place::Bucket(_) => None,
        })
    }

    fn find<'a>(&'a self, url: &'a str) -> Option<Recording<'a>> {
        self.all.iter().find_map(|place| match place {
            Place::Folder(folder) => {
                folder.path_of(url).map(|path| Recording::File { folder, path })
            }
            Place::Bucket(bucket) => {
                bucket.key_of(url).map(|key| Recording::Object { bucket, key })
            }
        })
    }
}

impl Place {
    fn parse(text: &str) -> Result<Self, SettingError> {
        let text = text.trim();
        match text.split_once("://") {
            Some(("s3", rest)) => Bucket::parse(rest).map(Self::Bucket),
            Some(("file", path)) if path.starts_with('/') => Folder::parse(path).map(Self::Folder),
            None if !text.is_empty() => Folder::parse(text).map(Self::Folder),
            Some(_) | None => Err(SettingError(format!(
                "a place for recordings is a folder or s3://bucket[/prefix], not `{text}`"
            ))),
        }
    }

    fn url(&self) -> String {
        match self {
            Self::Folder(folder) => folder.url(),
            Self::Bucket(bucket) => bucket.url(),
        }
    }
}

/// A path that stays below its beginning and is not rewritten on its way through HTTP clients.
fn is_plain(path: &str) -> bool {
    !path.contains('\0') && path.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
}

/// What a recording is, by its name. Only what can be played has a type of its own: a page or a
/// script that lies among recordings must not run below our address.
fn content_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension.to_ascii_lowercase().as_str() {
        "aac" => "audio/aac",
        "flac" => "audio/flac",
        "m4a" => "audio/mp4",
        "m3u8" => "application/vnd.apple.mpegurl",
        "mkv" => "video/x-matroska",
        "mov" => "video/quicktime",
        "mp3" => "audio/mpeg",
        "mp4" => "video/mp4",
        "oga" | "ogg" | "opus" => "audio/ogg",
        "ts" => "video/mp2t",
        "wav" => "audio/wav",
        "webm" => "video/webm",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests;
