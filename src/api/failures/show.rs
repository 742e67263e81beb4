//! Failures and their replays as people see them, here and on the command line.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::finalize::{Difference, Outcome};
use crate::intake::Trial;
use crate::store::{Failure, Replay, ReplayOutcome};

/// A longer event is for `…/raw/` alone.
const LONGEST_SHOWN: usize = 4 * 1024 * 1024;

/// A failure, as a list shows it.
pub fn failure_data(failure: &Failure) -> Value {
    let rejection = &failure.rejection;
    let closed = failure.closed.as_ref();
    json!({
        "id": failure.failure_id,
        "code": rejection.code,
        "message": rejection.message,
        "pointer": rejection.pointer,
        "state": failure.state.as_str(),
        "session_id": rejection.session_id,
        "tenant_id": failure.tenant_id,
        "character_slug": failure.character_slug,
        "event_id": rejection.event_id,
        "event_type": rejection.event_type,
        "source": failure.source,
        "size_bytes": failure.size_bytes,
        "seen": failure.seen,
        "first_seen_at": failure.first_seen_at,
        "last_seen_at": failure.last_seen_at,
        "replays": failure.replays,
        "replayed_at": failure.replayed_at,
        "replaying_since": failure.replaying.map(|replaying| replaying.since),
        "closed_at": closed.map(|closed| closed.at),
        "closed_by": closed.map(|closed| &closed.by),
        "outcome": closed.and_then(|closed| closed.outcome).map(ReplayOutcome::as_str),
        "is_edited": closed.is_some_and(|closed| closed.is_edited),
        "raw_expired_at": failure.raw_expired_at,
    })
}

/// A failure with its event: as the JSON that it is, as text, or else in base64; all three are null
/// if the bytes are dropped, or longer than 4 MiB.
pub fn failure_story_data(failure: &Failure, raw: &[u8]) -> Box<RawValue> {
    #[derive(Serialize)]
    struct Data<'a> {
        #[serde(flatten)]
        failure: Value,
        headers: Value,
        event: Option<&'a RawValue>,
        event_text: Option<&'a str>,
        event_base64: Option<String>,
    }

    let is_there = failure.raw_expired_at.is_none() && raw.len() <= LONGEST_SHOWN;
    let raw = Some(raw).filter(|_| is_there);
    let event = raw.and_then(|raw| serde_json::from_slice::<&RawValue>(raw).ok());
    let text = raw.filter(|_| event.is_none()).map(std::str::from_utf8);
    let is_binary = matches!(text, Some(Err(_)));
    let headers = failure.headers.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let data = Data {
        failure: failure_data(failure),
        headers: headers.unwrap_or_else(|| json!([])),
        event,
        event_text: text.and_then(Result::ok),
        event_base64: raw.filter(|_| is_binary).map(|raw| STANDARD.encode(raw)),
    };
    serde_json::value::to_raw_value(&data).expect("what is stored can be shown")
}

/// What became of a replayed event.
pub fn outcome_data(outcome: &Outcome) -> Value {
    let rejection = match outcome {
        Outcome::Failed { rejection, .. } => Some(rejection),
        _ => None,
    };
    let session_id = match outcome {
        Outcome::Finalized(session_id) => Some(*session_id),
        Outcome::Accepted(session_id) | Outcome::Duplicate(session_id) => *session_id,
        Outcome::Failed { rejection, .. } => rejection.session_id,
    };
    json!({
        "outcome": ReplayOutcome::of(outcome).map_or("failed", ReplayOutcome::as_str),
        "session_id": session_id,
        "code": rejection.map(|rejection| rejection.code),
        "message": rejection.map(|rejection| &rejection.message),
        "pointer": rejection.and_then(|rejection| rejection.pointer.as_ref()),
    })
}

/// What a replay would come to, and in what the event differs from what is stored.
pub fn trial_data(trial: &Trial) -> Value {
    let mut data = outcome_data(&trial.outcome);
    let differences = trial.differences.iter().map(
        |Difference { field, stored, event }| json!({ "field": field, "stored": stored, "event": event }),
    );
    data["dry_run"] = json!(true);
    data["differences"] = differences.collect();
    data
}

/// A replay of many failures and how far it has come.
pub fn replay_data(job: &Replay) -> Value {
    let (which, progress) = (&job.which, &job.progress);
    json!({
        "id": job.replay_id,
        "code": which.code,
        "session_id": which.session_id,
        "character_slug": which.character_slug,
        "tenant_id": which.tenant_id,
        "since": which.since,
        "until": which.until,
        "dry_run": job.is_dry_run,
        "supersede": job.is_superseding,
        "per_second": job.per_second,
        "ordered_by": job.ordered_by,
        "status": job.state.as_str(),
        "matched": job.matched,
        "finalized": progress.finalized,
        "accepted": progress.accepted,
        "duplicates": progress.duplicates,
        "failed": progress.failed,
        "skipped": progress.skipped,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
    })
}
