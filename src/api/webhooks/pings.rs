//! How many pings are on their way: each may take as long as its endpoint's timeout, and nobody's
//! hanging endpoints keep others from trying theirs.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Of one user.
const OF_ONE_USER: usize = 4;
/// Of all.
const OF_ALL: usize = 64;

/// Pings that are on their way, by user.
#[derive(Debug, Default)]
pub(super) struct Pings(Mutex<HashMap<i64, usize>>);

/// A ping that is on its way, until it is dropped.
#[derive(Debug)]
pub(super) struct Ping<'a> {
    pings: &'a Pings,
    user: i64,
}

impl Pings {
    /// One more; `None` if there are too many.
    pub(super) fn begin(&self, user: i64) -> Option<Ping<'_>> {
        let mut running = self.running();
        let all: usize = running.values().sum();
        let own = running.entry(user).or_default();
        if *own >= OF_ONE_USER || all >= OF_ALL {
            return None;
        }
        *own += 1;
        Some(Ping { pings: self, user })
    }

    fn running(&self) -> MutexGuard<'_, HashMap<i64, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ping<'_> {
    fn drop(&mut self) {
        let mut running = self.pings.running();
        if let Some(own) = running.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                running.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_pings_of_others() {
        let pings = Pings::default();
        let of_seven: Vec<_> = (0..OF_ONE_USER).map(|_| pings.begin(7).unwrap()).collect();
        assert!(pings.begin(7).is_none());
        assert!(pings.begin(8).is_some());
        drop(of_seven);
        assert!(pings.begin(7).is_some() && pings.running().is_empty());
        let all: Vec<_> = (0..100).map_while(|user| pings.begin(user)).collect();
        assert_eq!(all.len(), OF_ALL);
    }
}
