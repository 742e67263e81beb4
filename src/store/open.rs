//! From a database's URL to a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::postgres::Postgres;
use super::sqlite::Sqlite;
use super::{SharedStore, StoreError};

/// Whether a SQLite file may be made where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// For whoever writes.
    Create,
    /// For whoever only reads.
    Existing,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is of no database we know.
    #[error("{0:?} is no database URL; give sqlite://FOLDER/FILE or postgres://…")]
    BadUrl(String),
    /// There is no SQLite file there.
    #[error("there is no database at {}", .0.display())]
    Missing(PathBuf),
    /// The folder for the file cannot be made.
    #[error("cannot make the folder {}: {source}", .path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database does not answer, or is not fit for use.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Which database a URL means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// PostgreSQL, by its URL.
    Postgres(String),
}

impl DatabaseUrl {
    /// Reads a URL.
    pub fn parse(url: &str) -> Result<Self, OpenError> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(url.to_owned()));
        }
        let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:"));
        match path.filter(|path| !path.is_empty()) {
            Some(path) => Ok(Self::Sqlite(PathBuf::from(path))),
            None => Err(OpenError::BadUrl(url.to_owned())),
        }
    }
}

/// Opens a store. A SQLite file is brought up to date; PostgreSQL must be (see [`migrate`]).
pub async fn open(url: &str, mode: OpenMode) -> Result<SharedStore, OpenError> {
    match DatabaseUrl::parse(url)? {
        DatabaseUrl::Postgres(url) => Ok(Arc::new(Postgres::open(&url).await?)),
        DatabaseUrl::Sqlite(path) => {
            let path = std::path::absolute(&path)
                .map_err(|source| OpenError::Folder { path: path.clone(), source })?;
            if mode == OpenMode::Create {
                make_folder(&path)?;
            } else if !path.exists() {
                return Err(OpenError::Missing(path));
            }
            Ok(Arc::new(Sqlite::open(&path, mode == OpenMode::Create).await?))
        }
    }
}

/// Brings a database up to date.
pub async fn migrate(url: &str) -> Result<(), OpenError> {
    match DatabaseUrl::parse(url)? {
        DatabaseUrl::Postgres(url) => Ok(Postgres::migrate(&url).await?),
        DatabaseUrl::Sqlite(_) => open(url, OpenMode::Create).await.map(drop),
    }
}

fn make_folder(file: &Path) -> Result<(), OpenError> {
    let Some(folder) = file.parent() else { return Ok(()) };
    std::fs::create_dir_all(folder)
        .map_err(|source| OpenError::Folder { path: folder.to_path_buf(), source })
}
