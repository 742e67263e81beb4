//! A session as people see it: the API's `data`, and the two kinds of webhook body.

use std::borrow::Cow;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::cost::{Breakdown, Dollars};
use super::recording::RecordingStatus;
use super::session::Session;
use super::transcript::{Line, transcript_text};
use crate::event::Role;
use crate::webhook::EventType;

/// A transcript whose JSON is longer is not sent in a `full` body.
const LONGEST_SENT_TRANSCRIPT: usize = 256 * 1024;

/// The API's `data` for a session. `presigned_url` is made at read time, if at all.
pub fn session_data(session: &Session, presigned_url: Option<&str>) -> Box<RawValue> {
    let text = text_of(session);
    let data = SessionData::new(session, Some(Presigned(presigned_url)), Some(&text));
    serde_json::value::to_raw_value(&data).expect("what is stored can be shown")
}

/// A session in a list: [`session_data`] with the transcript as text alone, and without the presigned
/// URL, which is made for who reads one session.
pub(super) fn listed_data(session: &Session) -> Box<RawValue> {
    let text = text_of(session);
    let data = SessionData { transcript: None, ..SessionData::new(session, None, Some(&text)) };
    serde_json::value::to_raw_value(&data).expect("what is stored can be shown")
}

/// A session in a list, without any text of the call.
pub(super) fn brief_data(session: &Session) -> Box<RawValue> {
    let data = SessionData { transcript: None, ..SessionData::new(session, None, None) };
    serde_json::value::to_raw_value(&data).expect("what is stored can be shown")
}

/// A `thin` body: `{type, timestamp, data}`. `egress_id` for recording messages.
pub fn thin_payload(
    event_type: EventType,
    timestamp: DateTime<Utc>,
    session: &Session,
    egress_id: Option<&str>,
    public_url: &str,
) -> Bytes {
    body(event_type, timestamp, &ThinData::new(session, egress_id, public_url))
}

/// A `full` body: [`session_data`] without the presigned URL, which would outlive its purpose,
/// with the session's `url`. A transcript above 256 KiB is left for the reader to fetch.
pub fn full_payload(
    event_type: EventType,
    timestamp: DateTime<Utc>,
    session: &Session,
    egress_id: Option<&str>,
    public_url: &str,
) -> Bytes {
    let transcript_truncated = session.transcript.len() > LONGEST_SENT_TRANSCRIPT;
    let text = (!transcript_truncated).then(|| text_of(session));
    let data = FullData {
        data: SessionData::new(session, None, text.as_deref()),
        url: session_url(session, public_url),
        transcript_truncated,
        egress_id,
    };
    body(event_type, timestamp, &data)
}

/// Milliseconds, shown as a number of seconds with at most three decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(value_type = f64, example = 184.7)]
pub(super) struct Seconds(pub(super) i64);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[expect(clippy::cast_precision_loss, reason = "exact below 285,000 years")]
        let milliseconds = self.0 as f64;
        // The quotient is the double nearest to the decimal number, so it prints as that.
        serializer.serialize_f64(milliseconds / 1000.0)
    }
}

/// A time cut to the second, with `Z`.
#[derive(Clone, Copy, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-05-28T14:23:48Z")]
struct Second(DateTime<Utc>);

impl Serialize for Second {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

/// A presigned URL, or null.
#[derive(Clone, Copy, Serialize)]
struct Presigned<'a>(Option<&'a str>);

/// A transcript, or null.
#[derive(Clone, Copy, Serialize)]
struct Transcript<'a>(Option<&'a RawValue>);

/// A session as the API shows it, in this order.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionData<'a> {
    id: i64,
    session_id: Uuid,
    tenant_id: &'a str,
    character_slug: &'a str,
    user: Option<i64>,
    room_name: Option<&'a str>,
    origin_url: Option<&'a str>,
    /// What was given when the session began.
    #[schema(value_type = Object)]
    metadata: &'a RawValue,
    session_duration_seconds: Seconds,
    turn_count: i32,
    /// How often the user spoke over the character.
    interruption_count: i32,
    /// Gross of cache.
    llm_input_tokens: i64,
    llm_output_tokens: i64,
    /// The model that was used most.
    llm_model: Option<&'a str>,
    llm_provider: Option<&'a str>,
    stt_audio_seconds: Seconds,
    stt_provider: Option<&'a str>,
    tts_characters: i64,
    tts_provider: Option<&'a str>,
    estimated_cost_usd: Dollars,
    /// Null while the session is in progress.
    finalized_at: Option<Second>,
    recording_status: RecordingStatus,
    recording_url: Option<&'a str>,
    /// A link that anyone can play for a time; read the session again for a new one. Lists leave
    /// it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    recording_presigned_url: Option<Presigned<'a>>,
    /// Lists leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<Line>)]
    transcript: Option<Transcript<'a>>,
    /// The transcript, a line for each turn. Null in brief lists.
    #[schema(value_type = Option<String>)]
    transcript_text: Option<&'a str>,
    /// When the session began.
    created_at: Second,
    /// How often it was finalized.
    revision: i32,
    /// Rises with every change.
    version: i32,
    close_reason: Option<&'a str>,
    #[schema(value_type = Breakdown)]
    cost_breakdown: &'a RawValue,
    /// Where the recording begins in the session.
    recording_offset_seconds: Option<Seconds>,
}

impl<'a> SessionData<'a> {
    /// `text` is the transcript's; without it the transcript is null.
    fn new(
        session: &'a Session,
        recording_presigned_url: Option<Presigned<'a>>,
        text: Option<&'a str>,
    ) -> Self {
        Self {
            id: session.id,
            session_id: session.session_id,
            tenant_id: &session.tenant_id,
            character_slug: &session.character_slug,
            user: session.user,
            room_name: session.room_name.as_deref(),
            origin_url: session.origin_url.as_deref(),
            metadata: raw(&session.metadata),
            session_duration_seconds: Seconds(session.duration_ms),
            turn_count: session.turn_count,
            interruption_count: session.interruption_count,
            llm_input_tokens: session.llm_input_tokens,
            llm_output_tokens: session.llm_output_tokens,
            llm_model: session.llm_model.as_deref(),
            llm_provider: session.llm_provider.as_deref(),
            stt_audio_seconds: Seconds(session.stt_audio_ms),
            stt_provider: session.stt_provider.as_deref(),
            tts_characters: session.tts_characters,
            tts_provider: session.tts_provider.as_deref(),
            estimated_cost_usd: Dollars(session.cost_micros),
            finalized_at: session.finalized_at.map(Second),
            recording_status: session.recording.status,
            recording_url: session.recording.url.as_deref(),
            recording_presigned_url,
            transcript: Some(Transcript(text.map(|_| raw(&session.transcript)))),
            transcript_text: text,
            created_at: Second(session.started_at),
            revision: session.revision,
            version: session.version,
            close_reason: session.close_reason.as_deref(),
            cost_breakdown: raw(&session.cost_breakdown),
            recording_offset_seconds: session.recording.offset_ms.map(Seconds),
        }
    }
}

#[derive(Serialize)]
struct FullData<'a> {
    #[serde(flatten)]
    data: SessionData<'a>,
    url: String,
    transcript_truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    egress_id: Option<&'a str>,
}

/// What a `thin` body says of a session.
#[derive(Serialize, ToSchema)]
pub(super) struct ThinData<'a> {
    session_id: Uuid,
    tenant_id: &'a str,
    character_slug: &'a str,
    user: Option<i64>,
    room_name: Option<&'a str>,
    session_duration_seconds: Seconds,
    turn_count: i32,
    interruption_count: i32,
    estimated_cost_usd: Dollars,
    recording_status: RecordingStatus,
    created_at: Second,
    finalized_at: Option<Second>,
    revision: i32,
    version: i32,
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    egress_id: Option<&'a str>,
}

impl<'a> ThinData<'a> {
    fn new(session: &'a Session, egress_id: Option<&'a str>, public_url: &str) -> Self {
        Self {
            session_id: session.session_id,
            tenant_id: &session.tenant_id,
            character_slug: &session.character_slug,
            user: session.user,
            room_name: session.room_name.as_deref(),
            session_duration_seconds: Seconds(session.duration_ms),
            turn_count: session.turn_count,
            interruption_count: session.interruption_count,
            estimated_cost_usd: Dollars(session.cost_micros),
            recording_status: session.recording.status,
            created_at: Second(session.started_at),
            finalized_at: session.finalized_at.map(Second),
            revision: session.revision,
            version: session.version,
            url: session_url(session, public_url),
            egress_id,
        }
    }
}

fn body(event_type: EventType, timestamp: DateTime<Utc>, data: &impl Serialize) -> Bytes {
    #[derive(Serialize)]
    struct Body<'a, D> {
        r#type: EventType,
        timestamp: String,
        data: &'a D,
    }

    let timestamp = timestamp.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let body = Body { r#type: event_type, timestamp, data };
    serde_json::to_vec(&body).expect("what is stored can be shown").into()
}

fn session_url(session: &Session, public_url: &str) -> String {
    let public_url = public_url.trim_end_matches('/');
    format!("{public_url}/api/billing/sessions/{}/", session.session_id)
}

fn text_of(session: &Session) -> String {
    #[derive(Deserialize)]
    struct Line<'a> {
        role: Role,
        #[serde(borrow)]
        text: Cow<'a, str>,
    }

    let lines: Vec<Line<'_>> =
        serde_json::from_str(&session.transcript).expect("a stored transcript is ours");
    transcript_text(lines.iter().map(|line| (line.role, &*line.text)))
}

/// A stored JSON text, to be spliced in as it is.
fn raw(json: &str) -> &RawValue {
    serde_json::from_str(json).expect("a stored JSON text is ours, or was checked when decoded")
}

#[cfg(test)]
mod tests {
    use super::super::recording::RecordingState;
    use super::super::{PriceBook, finalize, sample, start};
    use super::*;
    use crate::event::{Call, Envelope, SessionStarted};

    fn page_session() -> Session {
        let mut call = sample::call();
        call.usage = sample::page_usage("chatterbox", "chatterbox-en-v1");
        call.close_reason = Some("user_initiated".into());
        call.ended_at = Some(sample::at(184.7));
        call.messages = vec![
            sample::message("a", Role::Assistant, "Hi!\nUser: no").spoke(0.42, 2.0),
            sample::message("b", Role::User, "I want to book a demo.").spoke(3.0, 4.0),
        ];
        Session {
            id: 142,
            metadata: r#"{"user_id":"u_42","n":1.50}"#.to_owned(),
            finalized_at: Some(sample::at(185.999_999)),
            revision: 1,
            version: 2,
            recording: RecordingState {
                status: RecordingStatus::Ready,
                url: Some("s3://oshara-recordings/x.mp4".to_owned()),
                offset_ms: Some(-1250),
            },
            ..finalize(&sample::ended(call), &PriceBook::builtin()).unwrap()
        }
    }

    #[test]
    fn the_data_is_the_customers_page_field_by_field() {
        let data = session_data(&page_session(), Some("https://s3/x?sig"));
        let expected = concat!(
            r#"{"id":142,"session_id":"01970000-0000-7000-8000-000000000001","#,
            r#""tenant_id":"acme","character_slug":"support-bot","user":7,"#,
            r#""room_name":"oshara-voice-support-bot-user123-abc12","origin_url":null,"#,
            r#""metadata":{"user_id":"u_42","n":1.50},"session_duration_seconds":184.7,"#,
            r#""turn_count":2,"interruption_count":0,"llm_input_tokens":1840,"#,
            r#""llm_output_tokens":612,"llm_model":"gpt-4o-mini","llm_provider":"openai","#,
            r#""stt_audio_seconds":92.3,"stt_provider":"openai","tts_characters":1284,"#,
            r#""tts_provider":"chatterbox","estimated_cost_usd":"0.009873","#,
            r#""finalized_at":"2026-05-28T20:29:45Z","recording_status":"READY","#,
            r#""recording_url":"s3://oshara-recordings/x.mp4","#,
            r#""recording_presigned_url":"https://s3/x?sig","#,
            r#""transcript":[{"role":"assistant","text":"Hi!\nUser: no","turn_index":0,"#,
            r#""ts":0.42},{"role":"user","text":"I want to book a demo.","turn_index":1,"#,
            r#""ts":3.0}],"#,
            r#""transcript_text":"Assistant: Hi! User: no\nUser: I want to book a demo.","#,
            r#""created_at":"2026-05-28T20:26:40Z","revision":1,"version":2,"#,
            r#""close_reason":"user_initiated","cost_breakdown":{"lines":["#,
            r#"{"kind":"llm","provider":"openai","model":"gpt-4o-mini","cost_usd":"0.000643"},"#,
            r#"{"kind":"stt","provider":"openai","model":"whisper-1","cost_usd":"0.009230"}],"#,
            r#""unpriced":[{"kind":"tts","provider":"chatterbox","model":"chatterbox-en-v1"}]},"#,
            r#""recording_offset_seconds":-1.25}"#,
        );
        assert_eq!(data.get(), expected);
    }

    #[test]
    fn a_session_in_progress_shows_zeros_and_nulls() {
        let session = start(&SessionStarted {
            envelope: Envelope::default(),
            identity: sample::call().identity,
            started_at: sample::at(0.999),
            digest: [0; 32],
        });
        let expected = concat!(
            r#"{"id":0,"session_id":"01970000-0000-7000-8000-000000000001","#,
            r#""tenant_id":"acme","character_slug":"support-bot","user":7,"#,
            r#""room_name":"oshara-voice-support-bot-user123-abc12","origin_url":null,"#,
            r#""metadata":{},"session_duration_seconds":0.0,"turn_count":0,"#,
            r#""interruption_count":0,"llm_input_tokens":0,"llm_output_tokens":0,"#,
            r#""llm_model":null,"llm_provider":null,"stt_audio_seconds":0.0,"#,
            r#""stt_provider":null,"tts_characters":0,"tts_provider":null,"#,
            r#""estimated_cost_usd":"0.000000","finalized_at":null,"#,
            r#""recording_status":"NONE","recording_url":null,"#,
            r#""recording_presigned_url":null,"transcript":[],"transcript_text":"","#,
            r#""created_at":"2026-05-28T20:26:40Z","revision":0,"version":0,"#,
            r#""close_reason":null,"cost_breakdown":{"lines":[],"unpriced":[]},"#,
            r#""recording_offset_seconds":null}"#,
        );
        assert_eq!(session_data(&session, None).get(), expected);
    }

    #[test]
    fn a_listed_session_has_its_transcript_as_text_alone() {
        let session = page_session();
        let mut expected: serde_json::Value =
            serde_json::from_str(session_data(&session, None).get()).unwrap();
        let fields = expected.as_object_mut().unwrap();
        fields.remove("recording_presigned_url");
        fields.remove("transcript");
        let listed: serde_json::Value = serde_json::from_str(listed_data(&session).get()).unwrap();
        assert_eq!(listed, expected);
        assert_eq!(
            listed["transcript_text"],
            "Assistant: Hi! User: no\nUser: I want to book a demo."
        );
    }

    #[test]
    fn a_thin_body_says_what_happened_and_where_to_read_the_rest() {
        let body = thin_payload(
            EventType::SessionFinalized,
            sample::at(185.5),
            &page_session(),
            None,
            "https://calls.example/",
        );
        let expected = concat!(
            r#"{"type":"session.finalized","timestamp":"2026-05-28T20:29:45.500Z","data":{"#,
            r#""session_id":"01970000-0000-7000-8000-000000000001","tenant_id":"acme","#,
            r#""character_slug":"support-bot","user":7,"#,
            r#""room_name":"oshara-voice-support-bot-user123-abc12","#,
            r#""session_duration_seconds":184.7,"turn_count":2,"interruption_count":0,"#,
            r#""estimated_cost_usd":"0.009873","recording_status":"READY","#,
            r#""created_at":"2026-05-28T20:26:40Z","finalized_at":"2026-05-28T20:29:45Z","#,
            r#""revision":1,"version":2,"url":"https://calls.example/api/billing/sessions/"#,
            r#"01970000-0000-7000-8000-000000000001/"}}"#,
        );
        assert_eq!(std::str::from_utf8(&body).unwrap(), expected);
    }

    fn full_data(session: &Session, egress_id: Option<&str>) -> serde_json::Value {
        let at = sample::at(186.0);
        let body = full_payload(EventType::RecordingReady, at, session, egress_id, "http://h");
        let mut body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["type"], "session.recording_ready");
        assert_eq!(body["timestamp"], "2026-05-28T20:29:46Z");
        body["data"].take()
    }

    #[test]
    fn a_full_body_is_the_apis_data_without_the_presigned_url() {
        let session = page_session();
        let full = full_data(&session, Some("EG_1"));
        let mut expected: serde_json::Value =
            serde_json::from_str(session_data(&session, None).get()).unwrap();
        let fields = expected.as_object_mut().unwrap();
        fields.remove("recording_presigned_url");
        let url = "http://h/api/billing/sessions/01970000-0000-7000-8000-000000000001/";
        fields.insert("url".to_owned(), url.into());
        fields.insert("transcript_truncated".to_owned(), false.into());
        fields.insert("egress_id".to_owned(), "EG_1".into());
        assert_eq!(full, expected);
    }

    #[test]
    fn a_full_body_keeps_the_apis_order_and_adds_its_own_fields_behind() {
        let session = page_session();
        let at = sample::at(186.0);
        let body = full_payload(EventType::RecordingFailed, at, &session, Some("EG_1"), "http://h");
        let data = session_data(&session, None);
        let data = data.get().replace(r#""recording_presigned_url":null,"#, "");
        let expected = format!(
            concat!(
                r#"{{"type":"session.recording_failed","timestamp":"2026-05-28T20:29:46Z","#,
                r#""data":{},"url":"http://h/api/billing/sessions/"#,
                r#"01970000-0000-7000-8000-000000000001/","transcript_truncated":false,"#,
                r#""egress_id":"EG_1"}}}}"#
            ),
            data.strip_suffix('}').unwrap()
        );
        assert_eq!(std::str::from_utf8(&body).unwrap(), expected);
    }

    #[test]
    fn a_transcript_above_256_kib_is_left_for_the_reader_to_fetch() {
        let with_length = |length: usize| {
            let mut message = sample::message("a", Role::User, "").spoke(1.0, 2.0);
            let frame = r#"[{"role":"user","text":"","turn_index":0,"ts":1.0}]"#.len();
            message.texts = vec!["x".repeat(length - frame).into()];
            let call = Call { messages: vec![message], ..sample::call() };
            finalize(&sample::ended(call), &PriceBook::builtin()).unwrap()
        };
        let whole = full_data(&with_length(LONGEST_SENT_TRANSCRIPT), None);
        assert_eq!(whole["transcript_truncated"], false);
        assert_eq!(whole["transcript"][0]["turn_index"], 0);
        assert!(whole.get("egress_id").is_none());

        let cut = full_data(&with_length(LONGEST_SENT_TRANSCRIPT + 1), None);
        assert_eq!(cut["transcript_truncated"], true);
        assert!(cut["transcript"].is_null() && cut["transcript_text"].is_null());
        assert_eq!(cut["turn_count"], 1);
    }

    #[test]
    fn seconds_have_at_most_three_decimals() {
        for (milliseconds, shown) in [
            (0, "0.0"),
            (8_013, "8.013"),
            (1, "0.001"),
            (604_799_999, "604799.999"),
            (-5, "-0.005"),
        ] {
            assert_eq!(serde_json::to_string(&Seconds(milliseconds)).unwrap(), shown);
        }
    }
}
