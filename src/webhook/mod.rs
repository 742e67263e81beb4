//! What a webhook is. Pure: ids, bodies, signatures, and when to try again.
//!
//! ```text
//! pending -> (leased) -> delivered
//!              |-> pending (next_attempt_at) -> … -> exhausted
//!              '-> cancelled
//! ```

mod endpoint;
mod message;
mod retry;
mod signature;

pub use endpoint::Endpoint;
pub use message::{EventType, MessageId, MessageKey, PayloadKind};
pub use retry::{MAX_ATTEMPTS, next_attempt};
pub use signature::{Secret, SecretError, sign};
