//! How long to wait before trying again something that should be there: the database, the broker.

use std::time::Duration;

/// Doubles from 100 ms to 10 s; each wait is between half of that and all of it.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    ceiling: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { ceiling: Duration::from_millis(100) }
    }
}

impl Backoff {
    /// The next wait; `chance` in `0.0..1.0`.
    pub fn next(&mut self, chance: f64) -> Duration {
        let wait = self.ceiling.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
        self.ceiling = (self.ceiling * 2).min(Duration::from_secs(10));
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_ten_seconds_and_never_more() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..10).map(|_| backoff.next(1.0)).collect();
        assert_eq!(waits[..3], [100, 200, 400].map(Duration::from_millis));
        assert_eq!(waits[9], Duration::from_secs(10));
        assert_eq!(Backoff::default().next(0.0), Duration::from_millis(50));
    }
}
