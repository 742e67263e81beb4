//! What a call cost: usage times the price book, in decimal arithmetic, rounded once.

use super::usage::Usage;

/// Prices by (kind, provider, model). TOML; see `prices.toml` beside this file.
#[derive(Debug, Clone)]
pub struct PriceBook {}

/// Why a price book cannot be used; names the entry.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PriceBookError(pub String);

/// A call's cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// The total, in micro-dollars, rounded half-even.
    pub micros: i64,
    /// `{"lines": […], "unpriced": […]}`, as JSON text.
    pub breakdown: String,
}

impl PriceBook {
    /// The book that comes with the program.
    pub fn builtin() -> Self {
        unimplemented!()
    }

    /// Reads a book.
    pub fn parse(_toml: &str) -> Result<Self, PriceBookError> {
        unimplemented!()
    }

    /// What this usage costs.
    pub fn cost(&self, _usage: &Usage) -> Cost {
        unimplemented!()
    }
}
