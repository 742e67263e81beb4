//! Carries one delivery to its endpoint, and hands in what came of it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::Office;
use super::attempt::{self, Answer, Letter};
use super::client::{Client, PostError, Posted};
use super::directory::{Addressee, Directory, Opened};
use super::queue::{Job, Pace};
use super::recorder::Entry;
use crate::clock;
use crate::crash::{self, Point};
use crate::metrics::{Attempted, Try, seconds_between};
use crate::shutdown::panic_text;
use crate::spans::{Attribute, Doing, Span, carried_on};
use crate::store::{Attempt, AttemptResult, Cause, Next, Verdict};
use crate::webhook::next_attempt;

/// How long to wait before the endpoints are asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(250);

pub(super) struct Carrier {
    pub(super) office: Office,
    pub(super) client: Client,
    pub(super) directory: Arc<Directory>,
    pub(super) entries: mpsc::Sender<Entry>,
    /// No attempt takes longer, whatever its endpoint says.
    pub(super) longest_attempt: Duration,
}

/// What the other deliveries to the same endpoint should know.
pub(super) struct Feedback {
    pub(super) pace: Pace,
    pub(super) pause_until: Option<DateTime<Utc>>,
}

impl Feedback {
    const NONE: Self = Self { pace: Pace::Same, pause_until: None };
}

impl Carrier {
    /// Attempts a delivery once. Returns when the result is in the recorder's hands, which holds
    /// up new attempts when results cannot be written.
    pub(super) async fn carry(&self, job: Job) -> Feedback {
        let started_at = self.office.clock.now();
        let carrying = AssertUnwindSafe(self.attempt(&job, started_at)).catch_unwind();
        let (entry, feedback) = carrying.await.unwrap_or_else(|panic| {
            tracing::error!(
                delivery.id = %job.owed.delivery_id,
                "an attempt panicked: {}",
                panic_text(panic.as_ref())
            );
            (self.fail_here(&job, started_at, "internal_error"), Feedback::NONE)
        });
        // Nobody receives only when the process is ending in haste: its deliveries are rescued.
        drop(self.entries.send(entry).await);
        feedback
    }

    async fn attempt(&self, job: &Job, started_at: DateTime<Utc>) -> (Entry, Feedback) {
        if job.owed.body.is_empty() {
            let next = Next::Cancelled(Cause::SessionErased);
            let mut nothing = result(job, started_at, Posted::nothing(), next);
            nothing.attempt.error = Some(Cause::SessionErased.as_str().to_owned());
            return (attempted(job, nothing), Feedback::NONE);
        }
        let Some(addressee) = self.addressee(job).await else {
            return (Entry::GivenBack(job.clone()), Feedback::NONE);
        };
        let Some(addressee) = addressee.filter(|addressee| !addressee.is_disabled) else {
            // The copy may be older than the endpoint, or than its being enabled. If it is not, the
            // sweep cancels the delivery, and knows why.
            self.directory.forget_soon().await;
            return (Entry::GivenBack(job.clone()), Feedback::NONE);
        };
        if let Some(until) = addressee.paused_until.filter(|until| *until > started_at) {
            // Another process was told to wait.
            let feedback = Feedback { pause_until: Some(until), ..Feedback::NONE };
            return (Entry::GivenBack(job.clone()), feedback);
        }
        let Some(opened) = &addressee.opened else {
            return (self.fail_here(job, started_at, "unreadable_secret"), Feedback::NONE);
        };
        self.post(job, &addressee, opened).await
    }

    /// The endpoint, if there is one. The outer `None`: there is not enough time left to post.
    async fn addressee(&self, job: &Job) -> Option<Option<Arc<Addressee>>> {
        while self.office.desk.lively_process() == Some(job.owed.process_id) {
            let found = self.directory.find(job.owed.endpoint_id).await;
            match found {
                // The answer may have taken what time there was.
                Ok(found) => {
                    return (self.office.desk.lively_process() == Some(job.owed.process_id))
                        .then_some(found);
                }
                // The database is away: the time to post may not be over when it is back.
                Err(_) => sleep(ASK_AGAIN).await,
            }
        }
        None
    }

    async fn post(&self, job: &Job, addressee: &Addressee, opened: &Opened) -> (Entry, Feedback) {
        let started_at = self.office.clock.now();
        let span = Span::begin(Doing::AttemptWebhook, job.owed.trace, started_at);
        let letter = Letter {
            url: &addressee.url,
            secrets: &opened.secrets,
            headers: opened.headers.clone(),
            message_id: job.owed.message_id,
            body: job.owed.body.clone(),
            trace: carried_on(&span, job.owed.trace),
        };
        let deadline = addressee.timeout.min(self.longest_attempt);
        let posted = attempt::send(&self.client, letter, started_at, deadline).await;
        if posted.status.is_some() {
            crash::point(Point::AfterPost);
        }
        let now = self.office.clock.now();
        let answer = Answer::of(&posted, now);
        let next = match answer {
            Answer::Delivered => Next::Done,
            Answer::Gone => Next::Cancelled(Cause::EndpointDisabled),
            Answer::Failed { retry_after, .. } => later(job, now, retry_after),
        };
        span.end(now, answer == Answer::Delivered, || attributes(job, &posted));
        self.count(job, &posted, now);
        log(job, &posted, next);
        let feedback = Feedback { pace: pace(answer), pause_until: answer.retry_after() };
        let result = AttemptResult {
            url: Arc::clone(&addressee.url),
            verdict: verdict(job, answer),
            pause_until: answer.retry_after(),
            ..result(job, started_at, posted, next)
        };
        (attempted(job, result), feedback)
    }

    fn count(&self, job: &Job, posted: &Posted, now: DateTime<Utc>) {
        let metrics = &self.office.metrics.courier;
        let came = came(posted);
        metrics.attempts.of(came).inc();
        metrics.attempt_time.observe(posted.duration.as_secs_f64());
        if came == Attempted::Delivered && job.owed.redelivered_after.is_none() {
            let which = if job.owed.attempts == 0 { Try::First } else { Try::Retry };
            metrics.delivered_after.of(which).observe(seconds_between(job.owed.told_at, now));
        }
    }

    /// An attempt that did not reach the network, for a reason that lies with us.
    fn fail_here(&self, job: &Job, started_at: DateTime<Utc>, reason: &str) -> Entry {
        self.office.metrics.courier.attempts.of(Attempted::Internal).inc();
        let now = self.office.clock.now();
        let mut failed = result(job, started_at, Posted::nothing(), later(job, now, None));
        failed.attempt.error = Some(reason.to_owned());
        attempted(job, failed)
    }
}

/// What a span says of an attempt.
fn attributes(job: &Job, posted: &Posted) -> Vec<Attribute> {
    let mut said = vec![
        ("endpoint.id", job.owed.endpoint_id.to_string()),
        ("message.id", job.owed.message_id.to_string()),
        ("attempt", (job.owed.attempts + 1).to_string()),
    ];
    said.extend(posted.status.map(|status| ("http.response.status_code", status.to_string())));
    said.extend(posted.error.map(|error| ("error.type", error.as_str().to_owned())));
    said
}

/// What came of an attempt, as it is counted.
fn came(posted: &Posted) -> Attempted {
    match (posted.status, posted.error) {
        (Some(200..=299), _) => Attempted::Delivered,
        (Some(300..=399), _) => Attempted::Redirect,
        (Some(410), _) => Attempted::Gone,
        (Some(429), _) => Attempted::Throttled,
        (Some(500..=599), _) => Attempted::ServerError,
        (Some(_), _) => Attempted::ClientError,
        (None, Some(PostError::InvalidUrl)) => Attempted::InvalidUrl,
        (None, Some(PostError::Dns)) => Attempted::Dns,
        (None, Some(PostError::RefusedAddress)) => Attempted::RefusedAddress,
        (None, Some(PostError::Connect)) => Attempted::Connect,
        (None, Some(PostError::Tls)) => Attempted::Tls,
        (None, Some(PostError::Timeout)) => Attempted::Timeout,
        (None, Some(PostError::Closed)) => Attempted::Closed,
        (None, Some(PostError::Protocol)) => Attempted::Protocol,
        (None, None) => Attempted::Internal,
    }
}

fn later(job: &Job, now: DateTime<Utc>, retry_after: Option<DateTime<Utc>>) -> Next {
    let attempts = job.owed.attempts_of_round() + 1;
    next_attempt(attempts, now, clock::chance(), retry_after).map_or(Next::Exhausted, Next::RetryAt)
}

fn pace(answer: Answer) -> Pace {
    match answer {
        Answer::Delivered => Pace::Faster,
        Answer::Failed { is_overloaded: true, .. } => Pace::Slower,
        Answer::Gone | Answer::Failed { .. } => Pace::Same,
    }
}

/// Failures of what somebody has sent again by hand are not held against the endpoint.
fn verdict(job: &Job, answer: Answer) -> Verdict {
    match answer {
        Answer::Delivered => Verdict::Works,
        Answer::Gone => Verdict::Gone,
        Answer::Failed { .. } if job.owed.redelivered_after.is_some() => Verdict::Nothing,
        Answer::Failed { .. } => Verdict::Fails,
    }
}

fn attempted(job: &Job, result: AttemptResult) -> Entry {
    Entry::Attempted { job: job.clone(), result: Box::new(result) }
}

fn result(job: &Job, started_at: DateTime<Utc>, posted: Posted, next: Next) -> AttemptResult {
    let Posted { status, error, head, body, address, is_connection_reused, duration, .. } = posted;
    let attempt = Attempt {
        number: job.owed.attempts + 1,
        started_at,
        duration_us: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
        status,
        error: error.map(|error| error.as_str().to_owned()),
        response_head: head,
        response_body: body,
        address: address.map(|address| address.to_string()),
        is_connection_reused,
    };
    AttemptResult {
        delivery_id: job.owed.delivery_id,
        endpoint_id: job.owed.endpoint_id,
        url: "".into(),
        attempt,
        next,
        verdict: Verdict::Nothing,
        pause_until: None,
    }
}

fn log(job: &Job, posted: &Posted, next: Next) {
    let outcome = match next {
        Next::Done => return,
        Next::RetryAt(at) => format!("next at {}", at.format("%FT%TZ")),
        Next::Exhausted => "that was the last attempt".to_owned(),
        Next::Cancelled(_) => "the endpoint is gone".to_owned(),
    };
    tracing::info!(
        delivery.id = %job.owed.delivery_id,
        endpoint.id = %job.owed.endpoint_id,
        message.id = %job.owed.message_id,
        attempt = job.owed.attempts + 1,
        trace.id = job.owed.trace.map(|trace| hex::encode(trace.trace_id)),
        http.status = posted.status,
        error = posted.error.map(PostError::as_str),
        duration_ms = posted.duration.as_millis(),
        "webhook not delivered; {outcome}"
    );
}
