//! Places at which the fault suite makes a process die, and defects that it gives it on purpose, to
//! see whether they are found. Only with the feature `crash-points`, which no release has: without
//! it there is one empty function.

/// A moment between two steps that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The broker has handed an event over; nothing has been done with it.
    AfterReceive,
    /// A batch is written, and not committed.
    BeforeCommit,
    /// A batch is committed, and nobody knows.
    AfterCommit,
    /// All that belongs to a batch is committed; the broker has not been told.
    BeforeAcknowledge,
    /// A receiver has answered, and the answer is not recorded.
    AfterPost,
}

/// A way to break a promise.
#[cfg(feature = "crash-points")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    /// Events are acknowledged as they come.
    AcknowledgeBeforeCommit,
    /// Deliveries go to the courier before they are committed.
    DeliverBeforeCommit,
    /// A result is recorded whoever holds the delivery by then.
    RecordWithoutLease,
}

/// Nothing happens.
#[cfg(not(feature = "crash-points"))]
pub(crate) const fn point(_: Point) {}

#[cfg(feature = "crash-points")]
mod switched {
    use std::ffi::OsString;
    use std::fs;
    use std::sync::LazyLock;

    use super::{Defect, Point};

    /// The file that names the point at which to die.
    static CONTROL: LazyLock<Option<OsString>> =
        LazyLock::new(|| std::env::var_os("FINALIZER_CRASH_FILE"));

    static DEFECT: LazyLock<Option<OsString>> =
        LazyLock::new(|| std::env::var_os("FINALIZER_DEFECT"));

    /// Dies as by `kill -9` if the control file names this point; the file is taken away, so that
    /// the process that comes after does not die, too.
    pub(crate) fn point(point: Point) {
        let Some(control) = &*CONTROL else { return };
        let is_named = fs::read_to_string(control).is_ok_and(|name| name.trim() == point.name());
        if is_named && fs::remove_file(control).is_ok() {
            std::process::abort();
        }
    }

    /// Whether the process was given this defect.
    pub(crate) fn has(defect: Defect) -> bool {
        DEFECT.as_ref().is_some_and(|given| given == defect.name())
    }

    impl Point {
        fn name(self) -> &'static str {
            match self {
                Self::AfterReceive => "after_receive",
                Self::BeforeCommit => "before_commit",
                Self::AfterCommit => "after_commit",
                Self::BeforeAcknowledge => "before_acknowledge",
                Self::AfterPost => "after_post",
            }
        }
    }

    impl Defect {
        fn name(self) -> &'static str {
            match self {
                Self::AcknowledgeBeforeCommit => "acknowledge_before_commit",
                Self::DeliverBeforeCommit => "deliver_before_commit",
                Self::RecordWithoutLease => "record_without_lease",
            }
        }
    }
}

#[cfg(feature = "crash-points")]
pub(crate) use switched::{has, point};
