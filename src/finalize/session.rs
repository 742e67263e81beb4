//! A session as it is kept, and the two events that make one.

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::cost::PriceBook;
use super::recording::RecordingState;
use super::transcript::{count_interruptions, milliseconds, transcript_json, turns_and_last_heard};
use super::usage::{UsageKind, total_usage};
use super::{NO_COST, NO_TRANSCRIPT, NO_USAGE};
use crate::event::{Call, Digest, Identity, Rejection, SessionEnded, SessionStarted, Text};

/// One voice call as it is stored. Amounts are whole numbers: milliseconds, micro-dollars.
///
/// A checkpoint is kept as the JSON of this, so that a later release reads what an earlier one wrote:
/// a new field has a `#[serde(default)]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The number the API shows as `id`; 0 until the store has given one.
    pub id: i64,
    /// The session's id.
    pub session_id: Uuid,
    /// The tenant the character belongs to.
    pub tenant_id: String,
    /// The character that spoke.
    pub character_slug: String,
    /// The owner: who created the character.
    pub character_owner: i64,
    /// The user who called.
    pub user: Option<i64>,
    /// `LiveKit`'s room id.
    pub room_id: Option<String>,
    /// `LiveKit`'s room name.
    pub room_name: Option<String>,
    /// The page the call was made from.
    pub origin_url: Option<String>,
    /// A JSON object, as compact text.
    pub metadata: String,
    /// When the call began; the API's `created_at`.
    pub started_at: DateTime<Utc>,
    /// When the call ended, whoever said so (event, report, last turn): `started_at` + duration.
    /// `None` while in progress.
    pub ended_at: Option<DateTime<Utc>>,
    /// Why the call ended.
    pub close_reason: Option<String>,
    /// `started_at` to the end, in milliseconds.
    pub duration_ms: i64,
    /// Turns in `transcript`.
    pub turn_count: i32,
    /// How often the user spoke over the agent.
    pub interruption_count: i32,
    /// Gross of cache.
    pub llm_input_tokens: i64,
    /// Reasoning included.
    pub llm_output_tokens: i64,
    /// The model with most tokens.
    pub llm_model: Option<String>,
    /// Its provider, folded.
    pub llm_provider: Option<String>,
    /// Milliseconds of audio.
    pub stt_audio_ms: i64,
    /// The provider with most audio.
    pub stt_provider: Option<String>,
    /// Characters spoken by TTS.
    pub tts_characters: i64,
    /// The provider with most characters.
    pub tts_provider: Option<String>,
    /// Micro-dollars.
    pub cost_micros: i64,
    /// `{"lines": […], "unpriced": […]}`, as JSON text.
    pub cost_breakdown: String,
    /// The usage lines the cost was computed from, as JSON text; `sessions reprice` reads it.
    pub usage: String,
    /// `[{"role", "text", "turn_index", "ts"}]`, as JSON text, just as the API shows it.
    pub transcript: String,
    /// A recording was asked for.
    pub recording_expected: bool,
    /// The egress the worker named.
    pub recording_egress_id: Option<String>,
    /// Where the worker says that it stored the recording itself.
    pub recording_worker_url: Option<String>,
    /// The worker's object is there, or lies where nobody may look.
    pub is_recording_found: bool,
    /// The deadline passed without a recording.
    pub is_recording_given_up: bool,
    /// What is known of the recording.
    pub recording: RecordingState,
    /// When the session became readable; set anew by a superseding event.
    pub finalized_at: Option<DateTime<Utc>>,
    /// 0 in progress, 1 finalized, one more for every superseding event.
    pub revision: i32,
    /// Rises with every change of the session.
    pub version: i32,
    /// Of the event that made the present revision (while in progress: of the newest checkpoint,
    /// else of `session.started`); [`Session::NO_EVENT`] if none did.
    pub digest: Digest,
    /// Digests of the events that earlier revisions came from.
    pub superseded: Vec<Digest>,
    /// When something new was last heard of a call in progress.
    pub heard_at: Option<DateTime<Utc>>,
    /// The newest checkpoint of a call in progress, if there is one.
    pub checkpoint_sequence: Option<i64>,
}

impl Session {
    /// The digest of a session that no event has ended. It is no event's.
    pub const NO_EVENT: Digest = [0; 32];

    /// Nobody has ended the call, it was given up: the end that may still come replaces it.
    pub fn is_provisional(&self) -> bool {
        self.revision > 0 && self.digest == Self::NO_EVENT
    }

    /// The same call in progress, of which nothing but its beginning is shown.
    pub(super) fn unfinished(&self) -> Self {
        let identity = Beginning {
            session_id: self.session_id,
            tenant_id: self.tenant_id.clone(),
            character_slug: self.character_slug.clone(),
            character_owner: self.character_owner,
            user: self.user,
            room_name: self.room_name.clone(),
            room_id: self.room_id.clone(),
            origin_url: self.origin_url.clone(),
            metadata: self.metadata.clone(),
        };
        in_progress(identity, self.started_at, self.digest)
    }
}

/// Makes a finalized session of a call; `id`, `revision`, `version`, `finalized_at` and the
/// recording's state are the merge's to set.
///
/// # Errors
///
/// What [`super::turns`] and [`total_usage`] refuse; `invalid_event` if the call ends before it began,
/// or after the year 9999.
pub fn finalize(ended: &SessionEnded<'_>, prices: &PriceBook) -> Result<Session, Rejection> {
    let call = &ended.call;
    let (turns, last_heard) = turns_and_last_heard(call)?;
    let usage = total_usage(call)?;
    let cost = prices.cost(&usage);
    let (ended_at, duration_ms) = end(call, last_heard)?;
    let main = |kind| {
        let line = usage.main_line(kind);
        line.map(|line| (line.provider.clone(), line.model.clone())).unwrap_or_default()
    };
    let (llm_provider, llm_model) = main(UsageKind::Llm);
    let request = call.recording.as_ref();
    Ok(Session {
        ended_at: Some(ended_at),
        close_reason: call.close_reason.as_ref().map(Text::to_owned_string),
        duration_ms,
        turn_count: count(turns.len(), "/started_at")?,
        interruption_count: match call.interruption_count {
            Some(own) => count(own, "/interruption_count")?,
            None => count(count_interruptions(&turns, call.started_at), "/started_at")?,
        },
        llm_input_tokens: usage.total(UsageKind::Llm, |amounts| amounts.input_tokens),
        llm_output_tokens: usage.total(UsageKind::Llm, |amounts| amounts.output_tokens),
        llm_model: named(llm_model),
        llm_provider: named(llm_provider),
        stt_audio_ms: usage.stt_audio_ms(),
        stt_provider: named(main(UsageKind::Stt).0),
        tts_characters: usage.total(UsageKind::Tts, |amounts| amounts.characters_count),
        tts_provider: named(main(UsageKind::Tts).0),
        cost_micros: cost.micros,
        cost_breakdown: cost.breakdown,
        usage: usage.to_json(),
        transcript: transcript_json(&turns),
        recording_expected: request.is_some_and(|request| request.expected),
        recording_egress_id: request.and_then(|request| owned(request.egress_id.as_ref())),
        recording_worker_url: request.and_then(|request| owned(request.url.as_ref())),
        ..in_progress(Beginning::of(&call.identity), call.started_at, ended.digest)
    })
}

/// Makes a session in progress.
pub fn start(started: &SessionStarted<'_>) -> Session {
    in_progress(Beginning::of(&started.identity), started.started_at, started.digest)
}

/// An event's [`Identity`] as a session keeps it.
struct Beginning {
    session_id: Uuid,
    tenant_id: String,
    character_slug: String,
    character_owner: i64,
    user: Option<i64>,
    room_name: Option<String>,
    room_id: Option<String>,
    origin_url: Option<String>,
    metadata: String,
}

impl Beginning {
    fn of(identity: &Identity<'_>) -> Self {
        let Identity {
            session_id,
            tenant_id,
            character_slug,
            character_owner,
            user,
            room_name,
            room_id,
            origin_url,
            metadata,
        } = identity;
        Self {
            session_id: *session_id,
            tenant_id: tenant_id.to_owned_string(),
            character_slug: character_slug.to_owned_string(),
            character_owner: *character_owner,
            user: *user,
            room_name: owned(room_name.as_ref()),
            room_id: owned(room_id.as_ref()),
            origin_url: owned(origin_url.as_ref()),
            metadata: metadata.as_str().to_owned(),
        }
    }
}

/// A session of which nothing but its beginning is known.
fn in_progress(beginning: Beginning, started_at: DateTime<Utc>, digest: Digest) -> Session {
    Session {
        id: 0,
        session_id: beginning.session_id,
        tenant_id: beginning.tenant_id,
        character_slug: beginning.character_slug,
        character_owner: beginning.character_owner,
        user: beginning.user,
        room_id: beginning.room_id,
        room_name: beginning.room_name,
        origin_url: beginning.origin_url,
        metadata: beginning.metadata,
        started_at,
        ended_at: None,
        close_reason: None,
        duration_ms: 0,
        turn_count: 0,
        interruption_count: 0,
        llm_input_tokens: 0,
        llm_output_tokens: 0,
        llm_model: None,
        llm_provider: None,
        stt_audio_ms: 0,
        stt_provider: None,
        tts_characters: 0,
        tts_provider: None,
        cost_micros: 0,
        cost_breakdown: NO_COST.to_owned(),
        usage: NO_USAGE.to_owned(),
        transcript: NO_TRANSCRIPT.to_owned(),
        recording_expected: false,
        recording_egress_id: None,
        recording_worker_url: None,
        is_recording_found: false,
        is_recording_given_up: false,
        recording: RecordingState::default(),
        finalized_at: None,
        revision: 0,
        version: 0,
        digest,
        superseded: vec![],
        heard_at: None,
        checkpoint_sequence: None,
    }
}

/// When the call ended and how many milliseconds it took, by the best witness there is: the
/// event, the report's duration, the report's time, the last thing heard.
fn end(
    call: &Call<'_>,
    last_heard: Option<DateTime<Utc>>,
) -> Result<(DateTime<Utc>, i64), Rejection> {
    let began = call.started_at;
    let (pointer, duration_ms) = if let Some(ended_at) = call.ended_at {
        ("/ended_at", span(began, ended_at))
    } else if let Some(duration_ms) = call.report_duration_ms {
        ("/report/duration_ms", duration_ms)
    } else if let Some(timestamp) = call.report_timestamp {
        ("/report/timestamp", span(began, timestamp))
    } else {
        ("/started_at", last_heard.map_or(0, |heard| span(began, heard).max(0)))
    };
    let ended_at = TimeDelta::try_milliseconds(duration_ms)
        .filter(|duration| *duration >= TimeDelta::zero())
        .and_then(|duration| began.checked_add_signed(duration))
        .filter(|ended_at| ended_at.year() <= 9999);
    match ended_at {
        Some(ended_at) => Ok((ended_at, duration_ms)),
        None => Err(Rejection::invalid(
            pointer,
            "Expected a call that ends after its started_at and before the year 10000: correct \
             started_at, or this time.",
        )),
    }
}

/// Milliseconds, rounded to the nearest; negative whenever the second time is earlier.
fn span(from: DateTime<Utc>, to: DateTime<Utc>) -> i64 {
    let rounded = milliseconds(from, to);
    if to < from { rounded.min(-1) } else { rounded }
}

/// A count as it is stored.
fn count(number: impl TryInto<i32>, pointer: &str) -> Result<i32, Rejection> {
    number
        .try_into()
        .map_err(|_| Rejection::invalid(pointer, "Expected a count below 2147483648, found more."))
}

fn named(name: String) -> Option<String> {
    (!name.is_empty()).then_some(name)
}

fn owned(text: Option<&Text<'_>>) -> Option<String> {
    text.map(Text::to_owned_string)
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::event::{Envelope, Message, RecordingRequest, Role, SourceKind};

    fn finalized(call: Call<'static>) -> Result<Session, Rejection> {
        finalize(&sample::ended(call), &PriceBook::builtin())
    }

    #[test]
    fn a_call_becomes_a_session_with_transcript_totals_and_cost() {
        let mut call = sample::call();
        call.close_reason = Some("participant_disconnected".into());
        call.ended_at = Some(sample::at(184.7));
        call.usage = sample::page_usage("chatterbox", "chatterbox-en-v1");
        call.messages = vec![
            Message {
                interrupted: true,
                ..sample::message("a", Role::Assistant, "Hi! How \"are\" you?").spoke(0.42, 3.0)
            },
            sample::message("b", Role::User, "I want to book a demo.").spoke(3.18, 4.0),
        ];
        call.recording =
            Some(RecordingRequest { expected: true, egress_id: Some("EG_1".into()), url: None });
        let session = finalized(call).unwrap();
        assert_eq!(
            session.transcript,
            concat!(
                r#"[{"role":"assistant","text":"Hi! How \"are\" you?","turn_index":0,"ts":0.42},"#,
                r#"{"role":"user","text":"I want to book a demo.","turn_index":1,"ts":3.18}]"#
            )
        );
        assert_eq!((session.turn_count, session.interruption_count), (2, 1));
        assert_eq!((session.llm_input_tokens, session.llm_output_tokens), (1840, 612));
        assert_eq!(session.llm_model.as_deref(), Some("gpt-4o-mini"));
        assert_eq!(session.llm_provider.as_deref(), Some("openai"));
        assert_eq!(session.stt_audio_ms, 92_300);
        assert_eq!(session.stt_provider.as_deref(), Some("openai"));
        assert_eq!(session.tts_characters, 1284);
        assert_eq!(session.tts_provider.as_deref(), Some("chatterbox"));
        assert_eq!(session.cost_micros, 9873);
        assert_eq!((session.duration_ms, session.ended_at), (184_700, Some(sample::at(184.7))));
        assert_eq!(session.close_reason.as_deref(), Some("participant_disconnected"));
        assert!(session.recording_expected);
        assert_eq!(session.recording_egress_id.as_deref(), Some("EG_1"));
        assert_eq!((session.id, session.revision, session.version), (0, 0, 0));
        assert_eq!((session.finalized_at, session.digest), (None, [7; 32]));
    }

    #[test]
    fn a_caller_who_never_speaks_makes_a_session_too() {
        let call = Call { report_duration_ms: Some(3818), ..sample::call() };
        let session = finalized(call).unwrap();
        assert_eq!((session.turn_count, session.cost_micros), (0, 0));
        assert_eq!((session.transcript.as_str(), session.llm_model), (NO_TRANSCRIPT, None));
        assert_eq!(session.cost_breakdown, NO_COST);
    }

    #[test]
    fn the_workers_own_count_of_interruptions_counts() {
        let call = |own| Call { interruption_count: Some(own), ..sample::call() };
        assert_eq!(finalized(call(2)).unwrap().interruption_count, 2);
        let pointer = finalized(call(u32::MAX)).unwrap_err().pointer;
        assert_eq!(pointer.as_deref(), Some("/interruption_count"));
    }

    #[test]
    fn the_duration_comes_from_the_best_witness() {
        let mut call = sample::call();
        assert_eq!(finalized(call.clone()).unwrap().duration_ms, 0);
        call.messages = vec![sample::message("a", Role::User, "Hi").made(9.0).spoke(7.0, 8.5)];
        assert_eq!(finalized(call.clone()).unwrap().duration_ms, 9000);
        call.report_timestamp = Some(sample::at(10.0004));
        assert_eq!(finalized(call.clone()).unwrap().duration_ms, 10_000);
        call.report_duration_ms = Some(11_000);
        assert_eq!(finalized(call.clone()).unwrap().duration_ms, 11_000);
        call.ended_at = Some(sample::at(12.0005));
        let session = finalized(call).unwrap();
        assert_eq!((session.duration_ms, session.ended_at), (12_001, Some(sample::at(12.001))));
    }

    #[test]
    fn a_call_that_ends_before_it_began_is_refused_where_it_says_so() {
        let call = sample::call();
        let cases = [
            (Call { ended_at: Some(sample::at(-0.0001)), ..call.clone() }, "/ended_at"),
            (Call { report_duration_ms: Some(-1), ..call.clone() }, "/report/duration_ms"),
            (Call { report_duration_ms: Some(i64::MAX), ..call.clone() }, "/report/duration_ms"),
            (Call { report_timestamp: Some(sample::at(-5.0)), ..call }, "/report/timestamp"),
        ];
        for (call, pointer) in cases {
            assert_eq!(finalized(call).unwrap_err().pointer.as_deref(), Some(pointer));
        }
        let messages = vec![sample::message("a", Role::User, "Hi").made(-5.0)];
        let early = Call { messages, source: SourceKind::LivekitHistory, ..sample::call() };
        assert_eq!(finalized(early).unwrap().duration_ms, 0);
    }

    #[test]
    fn a_session_in_progress_has_counted_nothing() {
        let started = SessionStarted {
            envelope: Envelope::default(),
            identity: sample::call().identity,
            started_at: sample::at(0.0),
            digest: [3; 32],
        };
        let session = start(&started);
        assert_eq!((session.tenant_id.as_str(), session.character_owner), ("acme", 7));
        assert_eq!((session.ended_at, session.finalized_at, session.revision), (None, None, 0));
        assert_eq!((session.transcript.as_str(), session.digest), ("[]", [3; 32]));
    }
}
