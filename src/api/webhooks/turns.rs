//! How much of what takes long one user may have under way: nobody keeps others from their turn.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is under way, by user.
#[derive(Debug)]
pub(super) struct Turns {
    of_one_user: usize,
    of_all: usize,
    running: Mutex<HashMap<i64, usize>>,
}

/// Something that is under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    user: i64,
}

impl Turns {
    /// So many of one user, and of all.
    pub(super) fn new(of_one_user: usize, of_all: usize) -> Self {
        Self { of_one_user, of_all, running: Mutex::default() }
    }

    /// One more; `None` if there are too many.
    pub(super) fn begin(&self, user: i64) -> Option<Turn<'_>> {
        let mut running = self.running();
        let all: usize = running.values().sum();
        let own = running.entry(user).or_default();
        if *own >= self.of_one_user || all >= self.of_all {
            return None;
        }
        *own += 1;
        Some(Turn { turns: self, user })
    }

    fn running(&self) -> MutexGuard<'_, HashMap<i64, usize>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut running = self.turns.running();
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
    fn nobody_takes_the_turns_of_others() {
        let turns = Turns::new(4, 64);
        let of_seven: Vec<_> = (0..4).map(|_| turns.begin(7).unwrap()).collect();
        assert!(turns.begin(7).is_none());
        assert!(turns.begin(8).is_some());
        drop(of_seven);
        assert!(turns.begin(7).is_some() && turns.running().is_empty());
        let all: Vec<_> = (0..100).map_while(|user| turns.begin(user)).collect();
        assert_eq!(all.len(), 64);
    }
}
