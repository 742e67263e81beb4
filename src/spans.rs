//! Spans of what is done for an event that belongs to a trace, for whoever collects them (OTLP). Only
//! with the feature `otlp`, where a collector is named, and of traces that their publisher wants to see:
//! else there are none, and a trace is carried on as it came.

#[cfg(feature = "otlp")]
mod exported;

#[cfg(feature = "otlp")]
pub(crate) use exported::{Export, Span, start};

#[cfg(not(feature = "otlp"))]
pub(crate) use none::{Export, Span, start};

use crate::event::TraceParent;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// An event is taken, together with others.
    TakeEvent,
    /// A webhook is attempted.
    AttemptWebhook,
}

/// Something to say of a span.
pub(crate) type Attribute = (&'static str, String);

/// How a webhook of this trace names it: from the span on, if there is one.
pub(crate) fn carried_on(span: &Span, trace: Option<TraceParent>) -> Option<TraceParent> {
    span.trace().or(trace)
}

#[cfg(not(feature = "otlp"))]
mod none {
    use chrono::{DateTime, Utc};

    use super::{Attribute, Doing};
    use crate::event::TraceParent;

    /// No span.
    pub(crate) struct Span;

    impl Span {
        pub(crate) fn begin(_: Doing, _: Option<TraceParent>, _: DateTime<Utc>) -> Self {
            Self
        }

        #[expect(clippy::unused_self, reason = "a span that is exported has one")]
        pub(crate) fn trace(&self) -> Option<TraceParent> {
            None
        }

        #[expect(clippy::unused_self, reason = "a span that is exported ends")]
        pub(crate) fn end(self, _: DateTime<Utc>, _: bool, _: impl FnOnce() -> Vec<Attribute>) {}
    }

    /// Nothing is exported.
    pub(crate) struct Export;

    impl Export {
        #[expect(clippy::unused_async, reason = "what is exported takes its time")]
        pub(crate) async fn finish(self) {}
    }

    /// Says that there are no spans.
    #[expect(clippy::unnecessary_wraps, reason = "an exporter may not come to be")]
    pub(crate) fn start(_: &str, _: rustls::ClientConfig) -> anyhow::Result<Export> {
        tracing::warn!("no span is exported: this build has not the feature `otlp`");
        Ok(Export)
    }
}
