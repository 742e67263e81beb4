//! Another price for what was used already.

use uuid::Uuid;

use super::cost::{Cost, PriceBook};
use super::session::Session;
use super::usage::{Usage, UsageLine};

/// What a finalized session costs, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bill {
    /// The session.
    pub session_id: Uuid,
    /// The session's version that this was read in.
    pub version: i32,
    /// The usage, as it is stored.
    pub usage: String,
    /// The cost.
    pub cost: Cost,
}

/// A bill by another book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repriced {
    /// The bill with the cost that it has by that book.
    pub bill: Bill,
    /// The cost that it had.
    pub old: Cost,
    /// What the book has no price for.
    pub unpriced: Vec<UsageLine>,
}

impl Bill {
    /// A session's; none while it is in progress.
    pub fn of(session: Session) -> Option<Self> {
        session.finalized_at?;
        Some(Self {
            session_id: session.session_id,
            version: session.version,
            usage: session.usage,
            cost: Cost { micros: session.cost_micros, breakdown: session.cost_breakdown },
        })
    }

    /// The bill by this book.
    ///
    /// # Errors
    ///
    /// If the usage is none that this release wrote.
    pub fn reprice(self, prices: &PriceBook) -> Result<Repriced, serde_json::Error> {
        let usage = Usage::from_json(&self.usage)?;
        let cost = prices.cost(&usage);
        let unpriced = prices.unpriced(&usage).cloned().collect();
        let Self { session_id, version, usage, cost: old } = self;
        Ok(Repriced { bill: Self { session_id, version, usage, cost }, old, unpriced })
    }
}

impl Repriced {
    /// The cost, or what it is made of, is another one.
    pub fn is_changed(&self) -> bool {
        self.bill.cost != self.old
    }
}

#[cfg(test)]
mod tests {
    use super::super::{finalize, sample};
    use super::*;
    use crate::event::Call;

    const BOOK: &str = "[[price]]\nkind='tts'\nprovider='chatterbox'\nmodel='chatterbox-en-v1'\n\
                        unit='1M characters'\nprice='15'";

    fn bill() -> Bill {
        let usage = sample::page_usage("chatterbox", "chatterbox-en-v1");
        let ended = sample::ended(Call { usage, ..sample::call() });
        let mut session = finalize(&ended, &PriceBook::builtin()).unwrap();
        assert_eq!(Bill::of(session.clone()), None, "it is in progress");
        (session.version, session.finalized_at) = (4, Some(sample::at(200.0)));
        Bill::of(session).unwrap()
    }

    fn names(repriced: &Repriced) -> Vec<&str> {
        repriced.unpriced.iter().map(|line| line.provider.as_str()).collect()
    }

    #[test]
    fn the_book_that_a_bill_was_made_by_changes_nothing() {
        let repriced = bill().reprice(&PriceBook::builtin()).unwrap();
        assert_eq!(repriced.bill, bill());
        assert!(!repriced.is_changed());
        assert_eq!(names(&repriced), ["chatterbox"]);
    }

    #[test]
    fn another_book_prices_the_same_usage_anew() {
        let book = PriceBook::parse(BOOK).unwrap();
        let repriced = bill().reprice(&book).unwrap();
        assert!(repriced.is_changed());
        assert_eq!((repriced.old.micros, repriced.bill.cost.micros), (9_873, 19_260));
        assert_eq!((repriced.bill.version, &repriced.bill.usage), (4, &bill().usage));
        assert_eq!(names(&repriced), ["openai", "openai"]);
        // There and back again.
        let back = repriced.bill.reprice(&PriceBook::builtin()).unwrap();
        assert_eq!(back.bill, bill());
    }

    #[test]
    fn a_price_of_nothing_is_another_bill_than_no_price() {
        let free = BOOK.replace("'15'", "'0'");
        let book = PriceBook::parse(&free).unwrap();
        let nothing = Bill { cost: Cost { micros: 0, ..bill().cost }, ..bill() };
        let repriced = nothing.reprice(&book).unwrap();
        assert_eq!((repriced.old.micros, repriced.bill.cost.micros), (0, 0));
        assert!(repriced.is_changed());
    }

    #[test]
    fn usage_that_cannot_be_read_is_said_so() {
        for usage in ["", "7", r#"{"lines": [{"kind": "video"}]}"#] {
            let bill = Bill { usage: usage.to_owned(), ..bill() };
            assert!(bill.reprice(&PriceBook::builtin()).is_err(), "{usage}");
        }
    }
}
