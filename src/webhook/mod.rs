//! What a webhook is. Pure: ids, bodies, signatures, and when to try again.
//!
//! ```text
//! pending -> (leased) -> delivered
//!              |-> pending (next_attempt_at) -> … -> exhausted
//!              '-> cancelled
//! ```

mod endpoint;
mod health;
mod message;
mod pace;
mod retry;
mod rotation;
mod signature;

pub use endpoint::{
    DEFAULT_TIMEOUT_SECONDS, Endpoint, LONGEST_TIMEOUT_SECONDS, OwnHeaders, check_rate_limit,
    check_timeout,
};
pub use health::{Failing, WARNED_AT};
pub use message::{EventType, MessageId, MessageKey, PayloadKind, disabled_payload, ping_payload};
pub use pace::RateLimit;
pub use retry::{MAX_ATTEMPTS, next_attempt};
pub use rotation::{LONGEST_OVERLAP, OVERLAP, RotationError, SigningSecrets};
pub use signature::{Secret, SecretError, sign};
