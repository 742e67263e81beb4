//! Which deliveries of a generation are committed, and up to where the broker may forget them.

use std::collections::BTreeMap;

/// Delivery tags rise by one in a channel; batches finish in any order. Acknowledging with
/// `multiple` is safe up to the highest tag below which everything is committed.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Unacknowledged tags, and whether each is committed.
    open: BTreeMap<u64, bool>,
}

impl Ledger {
    /// A delivery arrived.
    pub(super) fn arrived(&mut self, tag: u64) {
        self.open.insert(tag, false);
    }

    /// A delivery's effect is committed.
    pub(super) fn committed(&mut self, tag: u64) {
        if let Some(is_committed) = self.open.get_mut(&tag) {
            *is_committed = true;
        }
    }

    /// The tag up to which to acknowledge now, if there is anything to acknowledge.
    pub(super) fn acknowledge(&mut self) -> Option<u64> {
        let first_open = self.open.iter().find(|(_, is_committed)| !**is_committed);
        let kept = match first_open.map(|(tag, _)| *tag) {
            Some(tag) => self.open.split_off(&tag),
            None => BTreeMap::new(),
        };
        let done = std::mem::replace(&mut self.open, kept);
        done.last_key_value().map(|(tag, _)| *tag)
    }

    /// How many are waiting for a commit or an acknowledgement.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Nothing is waiting for a commit or an acknowledgement.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_acknowledged_past_an_uncommitted_delivery() {
        let mut ledger = Ledger::default();
        for tag in 1..=5 {
            ledger.arrived(tag);
        }
        ledger.committed(2);
        ledger.committed(3);
        assert_eq!(ledger.acknowledge(), None);
        ledger.committed(1);
        assert_eq!(ledger.acknowledge(), Some(3));
        assert_eq!(ledger.acknowledge(), None);
        ledger.committed(5);
        assert_eq!(ledger.acknowledge(), None);
        ledger.committed(4);
        assert_eq!(ledger.acknowledge(), Some(5));
        assert!(ledger.is_empty());
    }
}
