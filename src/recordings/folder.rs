//! A folder of recordings.

use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use super::{PlaceError, SettingError, is_plain};

/// A folder, by its absolute path.
pub(super) struct Folder {
    /// Absolute, without `.`, `..` and a slash at its end.
    root: String,
}

impl Folder {
    /// A relative path counts from the working directory.
    pub(super) fn parse(text: &str) -> Result<Self, SettingError> {
        let unusable = |reason: String| {
            SettingError(format!("`{text}` is no folder for recordings: {reason}"))
        };
        let path = std::path::absolute(text).map_err(|error| unusable(error.to_string()))?;
        let root = without_dots(&path);
        let root = root.to_str().ok_or_else(|| unusable("its path is not UTF-8".to_owned()))?;
        Ok(Self { root: root.trim_end_matches('/').to_owned() })
    }

    pub(super) fn url(&self) -> String {
        format!("file://{}", self.root)
    }

    pub(super) fn url_of(&self, path: &str) -> String {
        format!("file://{}/{path}", self.root)
    }

    /// The path below the folder, if the URL names one.
    pub(super) fn path_of<'a>(&self, url: &'a str) -> Option<&'a str> {
        let absolute = url.strip_prefix("file://")?;
        let path = absolute.strip_prefix(self.root.as_str())?.strip_prefix('/')?;
        is_plain(path).then_some(path)
    }

    /// The regular file at `path`, all symbolic links resolved, if it is there and inside.
    pub(super) async fn open(&self, path: &str) -> Option<PathBuf> {
        let root = tokio::fs::canonicalize(self.root_path()).await.ok()?;
        let file = tokio::fs::canonicalize(root.join(path)).await.ok()?;
        let is_file = tokio::fs::metadata(&file).await.ok()?.is_file();
        (is_file && file.starts_with(&root)).then_some(file)
    }

    pub(super) async fn size(&self, path: &str) -> Result<Option<u64>, PlaceError> {
        let Some(file) = self.open(path).await else { return Ok(None) };
        match tokio::fs::metadata(file).await {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unavailable(&error)),
        }
    }

    /// Deletes the file, not what a symbolic link on the way to it leads to outside.
    pub(super) async fn delete(&self, path: &str) -> Result<(), PlaceError> {
        let Some(file) = self.open(path).await else { return Ok(()) };
        match tokio::fs::remove_file(file).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.unavailable(&error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(super) async fn check(&self) -> Result<(), PlaceError> {
        tokio::fs::read_dir(self.root_path())
            .await
            .map(drop)
            .map_err(|error| self.unavailable(&error))
    }

    fn root_path(&self) -> &Path {
        // The root of the file system has lost its slash.
        Path::new(if self.root.is_empty() { "/" } else { &self.root })
    }

    fn unavailable(&self, error: &std::io::Error) -> PlaceError {
        let reason = match error.kind() {
            ErrorKind::NotFound => {
                "there is no such folder (`finalizer run` makes only the default one)".to_owned()
            }
            _ => error.to_string(),
        };
        PlaceError::Unavailable { place: self.url(), reason }
    }
}

/// Takes `..` by its word: a URL with `..` in it would never be found below the folder.
fn without_dots(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        if component == Component::ParentDir {
            clean.pop();
        } else {
            clean.push(component);
        }
    }
    clean
}
