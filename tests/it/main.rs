//! The tests that run the real thing.

mod oracle;
