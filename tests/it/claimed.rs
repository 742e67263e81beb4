//! The pure merge and the merge of reports, on events by chance.

use proptest::prelude::*;

use crate::claims::egress::{check_merging, check_settling, report};
use crate::claims::merge::{Told, check_batch, check_orders};

fn told(most: usize) -> impl Strategy<Value = Vec<Told>> {
    prop::collection::vec(any::<[u8; 4]>().prop_map(Told::any), 0..most)
}

/// The room led to the call while it went on, and its end names the egress itself.
#[test]
fn a_stronger_clue_counts_even_if_it_leads_to_the_same_session() {
    let told = [
        Told::Started { call: 0, variant: 0, owner: 0 },
        Told::Recording { call: 0, egress: 0, status: 1, updated: 0, named: None },
    ];
    check_orders(&told, &[]);
    check_batch(&told, &[Told::Started { call: 0, variant: 1, owner: 0 }]);
}

proptest! {
    #[test]
    fn a_batch_is_the_same_as_its_events_one_by_one(before in told(4), batch in told(12)) {
        check_batch(&before, &batch);
    }

    #[test]
    fn all_orders_agree_unless_two_different_ends_meet(
        told in told(10), chance in any::<[u8; 10]>(),
    ) {
        check_orders(&told, &chance);
    }

    #[test]
    fn reports_amount_to_the_same_in_any_copies_and_order(
        reports in prop::collection::vec(any::<[u8; 8]>().prop_map(report), 3..6),
        has_given_up in any::<bool>(),
    ) {
        check_merging(&reports[0], &reports[1], &reports[2]);
        check_settling(reports, has_given_up);
    }
}
