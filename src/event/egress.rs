//! `LiveKit`'s `EgressInfo`, camelCase or `snake_case`, as one report on one egress.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::members::{missing, read_value};
use super::scalar::{Address, Int64, Name, Object, Words};
use super::{EventType, Rejection, Text};

/// The longest `error` that is kept, in bytes.
const MAX_ERROR_BYTES: usize = 512;

/// Where an egress stands, in the order in which one state may follow another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EgressStatus {
    /// Asked for.
    Starting,
    /// Recording.
    Active,
    /// Finishing and uploading.
    Ending,
    /// Given up before it began.
    Aborted,
    /// Failed (or reached a limit without a file).
    Failed,
    /// Complete (or stopped at a limit).
    Complete,
}

/// One report on one egress, cut to what we use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    /// `EG_…`.
    pub egress_id: String,
    /// `RM_…`.
    pub room_id: Option<String>,
    /// The room's name.
    pub room_name: Option<String>,
    /// Where it stands.
    pub status: EgressStatus,
    /// `updatedAt` in nanoseconds since 1970; 0 if absent.
    pub updated_at_ns: i64,
    /// When the egress began.
    pub started_at: Option<DateTime<Utc>>,
    /// When the egress ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// The first file, if it has a name.
    pub file: Option<EgressFile>,
    /// The file went to backup storage only.
    pub is_backup_only: bool,
    /// `LiveKit`'s word on what went wrong, cut to 512 bytes.
    pub error: Option<String>,
    /// Nobody but `LiveKit`'s own webhooks has told of it, which tell of every room there is,
    /// also of those that are none of ours.
    #[serde(default)]
    pub is_from_livekit: bool,
}

/// The first of an egress's file results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressFile {
    /// The object's key (`fileResults[0].filename`).
    pub filename: String,
    /// The bucket of the request; none means the default recordings place.
    pub bucket: Option<String>,
    /// Bytes; 0 if absent.
    pub size: i64,
    /// `location` is not empty: the file was stored.
    pub is_stored: bool,
    /// When the file's first frame was written.
    pub started_at: Option<DateTime<Utc>>,
}

/// Reads an `EgressInfo`, such as the `egressInfo` of `LiveKit`'s own webhooks. Pointers of a
/// rejection count from `pointer`, the place of the bytes in the whole (empty if they are the
/// whole).
pub fn egress_from_slice(info: &[u8], pointer: &str) -> Result<Egress, Rejection> {
    let text = std::str::from_utf8(info)
        .map_err(|_| Rejection::invalid(pointer, "Expected UTF-8, found other bytes."))?;
    read_value::<Object<EgressInfo<'_>>>(text, pointer)?.0.into_egress(pointer)
}

/// What is known of an egress as a `recording.updated` again, for whoever wants to see it or send
/// it anew: decoded, it is the same report. `event_id` is the egress's own.
pub fn recording_event(egress: &Egress, session_id: Option<Uuid>) -> Vec<u8> {
    let nanoseconds = |time: DateTime<Utc>| (time.timestamp_micros() * 1000).to_string();
    let file = egress.file.as_ref();
    let info = json!({
        "egressId": egress.egress_id,
        "roomId": egress.room_id,
        "roomName": egress.room_name,
        "status": egress.status.livekit_name(),
        "updatedAt": egress.updated_at_ns.to_string(),
        "startedAt": egress.started_at.map(nanoseconds),
        "endedAt": egress.ended_at.map(nanoseconds),
        "fileResults": file.map(|file| [json!({
            "filename": file.filename,
            "size": file.size.to_string(),
            "location": file.is_stored.then_some(&file.filename),
            "startedAt": file.started_at.map(nanoseconds),
        })]),
        "roomComposite": file.and_then(|file| file.bucket.as_ref()).map(|bucket| {
            json!({ "fileOutputs": [{ "s3": { "bucket": bucket } }] })
        }),
        "backupStorageUsed": egress.is_backup_only,
        "error": egress.error,
    });
    let event = json!({
        "type": EventType::Recording.as_str(),
        "schema_version": 1,
        "event_id": egress.egress_id,
        "session_id": session_id,
        "egress": info,
    });
    event.to_string().into_bytes()
}

impl EgressStatus {
    fn livekit_name(self) -> &'static str {
        match self {
            Self::Starting => "EGRESS_STARTING",
            Self::Active => "EGRESS_ACTIVE",
            Self::Ending => "EGRESS_ENDING",
            Self::Aborted => "EGRESS_ABORTED",
            Self::Failed => "EGRESS_FAILED",
            Self::Complete => "EGRESS_COMPLETE",
        }
    }
}

/// `livekit.EgressInfo`, cut to what we use.
#[derive(Debug, Deserialize)]
pub(super) struct EgressInfo<'a> {
    #[serde(alias = "egressId", borrow)]
    egress_id: Option<Name<'a>>,
    #[serde(alias = "roomId")]
    room_id: Option<Name<'a>>,
    #[serde(alias = "roomName")]
    room_name: Option<Name<'a>>,
    status: Option<&'a RawValue>,
    #[serde(alias = "updatedAt")]
    updated_at: Option<Int64>,
    #[serde(alias = "startedAt")]
    started_at: Option<Int64>,
    #[serde(alias = "endedAt")]
    ended_at: Option<Int64>,
    #[serde(alias = "fileResults")]
    file_results: Option<Vec<Object<FileInfo<'a>>>>,
    /// What servers before `fileResults` sent.
    file: Option<Object<FileInfo<'a>>>,
    #[serde(alias = "backupStorageUsed")]
    backup_storage_used: Option<bool>,
    error: Option<Words<'a>>,
    #[serde(alias = "roomComposite")]
    room_composite: Option<Object<Request<'a>>>,
    participant: Option<Object<Request<'a>>>,
    track: Option<Object<Request<'a>>>,
    #[serde(alias = "trackComposite")]
    track_composite: Option<Object<Request<'a>>>,
    web: Option<Object<Request<'a>>>,
}

/// `livekit.FileInfo`, cut to what we use.
#[derive(Debug, Deserialize)]
struct FileInfo<'a> {
    #[serde(borrow)]
    filename: Option<Address<'a>>,
    size: Option<Int64>,
    location: Option<Text<'a>>,
    #[serde(alias = "startedAt")]
    started_at: Option<Int64>,
}

/// What was asked for, whatever is recorded: only the outputs matter.
#[derive(Debug, Deserialize)]
struct Request<'a> {
    #[serde(alias = "fileOutputs", borrow)]
    file_outputs: Option<Vec<Object<Output<'a>>>>,
    file: Option<Object<Output<'a>>>,
}

#[derive(Debug, Deserialize)]
struct Output<'a> {
    #[serde(borrow)]
    s3: Option<Object<Upload<'a>>>,
    gcp: Option<Object<Upload<'a>>>,
    azure: Option<Object<Upload<'a>>>,
    #[serde(rename = "aliOSS", alias = "ali_oss")]
    ali_oss: Option<Object<Upload<'a>>>,
}

#[derive(Debug, Deserialize)]
struct Upload<'a> {
    /// Azure has containers.
    #[serde(alias = "containerName", alias = "container_name", borrow)]
    bucket: Option<Name<'a>>,
}

impl<'a> EgressInfo<'a> {
    /// The rooms of the event that carries the report stand in for absent ones.
    pub(super) fn default_rooms(&mut self, id: Option<Name<'a>>, name: Option<Name<'a>>) {
        let is_given = |name: &Name<'_>| !name.0.as_str().is_empty();
        self.room_id = self.room_id.take().filter(is_given).or(id);
        self.room_name = self.room_name.take().filter(is_given).or(name);
    }

    /// The report. `pointer` leads to this object.
    pub(super) fn into_egress(mut self, pointer: &str) -> Result<Egress, Rejection> {
        let egress_id = owned(self.egress_id.take()).ok_or_else(|| {
            missing(format!("{pointer}/egressId"), "the egress's id, a string that is not empty")
        })?;
        let file = self.take_file();
        let status = status(self.status, file.as_ref().is_some_and(|file| file.is_stored))
            .ok_or_else(|| unknown_status(pointer))?;
        Ok(Egress {
            egress_id,
            room_id: owned(self.room_id),
            room_name: owned(self.room_name),
            status,
            updated_at_ns: self.updated_at.unwrap_or_default().0.max(0),
            started_at: time(self.started_at),
            ended_at: time(self.ended_at),
            file,
            is_backup_only: self.backup_storage_used.unwrap_or(false),
            error: self.error.and_then(Words::unless_empty).map(|error| cut(error.as_str())),
            is_from_livekit: false,
        })
    }

    fn take_file(&mut self) -> Option<EgressFile> {
        let first = self.file_results.take().and_then(|files| files.into_iter().next());
        let file = first.or(self.file.take())?.0;
        Some(EgressFile {
            filename: file.filename.and_then(Address::unless_empty)?.to_owned_string(),
            bucket: self.take_bucket(),
            size: file.size.unwrap_or_default().0.max(0),
            is_stored: file.location.is_some_and(|location| !location.as_str().is_empty()),
            started_at: time(file.started_at),
        })
    }

    fn take_bucket(&mut self) -> Option<String> {
        let request = [
            self.room_composite.take(),
            self.participant.take(),
            self.track.take(),
            self.track_composite.take(),
            self.web.take(),
        ];
        let request = request.into_iter().flatten().next()?.0;
        let first = request.file_outputs.and_then(|outputs| outputs.into_iter().next());
        let output = first.or(request.file)?.0;
        let upload = output.s3.or(output.gcp).or(output.azure).or(output.ali_oss)?;
        owned(upload.0.bucket)
    }
}

/// The status: an enum's name or its number; Protobuf leaves out the first (STARTING).
fn status(raw: Option<&RawValue>, is_stored: bool) -> Option<EgressStatus> {
    let at_limit = if is_stored { EgressStatus::Complete } else { EgressStatus::Failed };
    let Some(raw) = raw else { return Some(EgressStatus::Starting) };
    let name = serde_json::from_str::<Text<'_>>(raw.get()).unwrap_or(Text::from(raw.get()));
    Some(match name.as_str() {
        "0" | "EGRESS_STARTING" => EgressStatus::Starting,
        "1" | "EGRESS_ACTIVE" => EgressStatus::Active,
        "2" | "EGRESS_ENDING" => EgressStatus::Ending,
        "3" | "EGRESS_COMPLETE" => EgressStatus::Complete,
        "4" | "EGRESS_FAILED" => EgressStatus::Failed,
        "5" | "EGRESS_ABORTED" => EgressStatus::Aborted,
        "6" | "EGRESS_LIMIT_REACHED" => at_limit,
        _ => return None,
    })
}

fn unknown_status(pointer: &str) -> Rejection {
    Rejection::invalid(
        format!("{pointer}/status"),
        "Expected a status of LiveKit's, from EGRESS_STARTING (0) to EGRESS_LIMIT_REACHED (6), \
         found another value.",
    )
}

fn owned(name: Option<Name<'_>>) -> Option<String> {
    name.and_then(Name::unless_empty).map(|name| name.to_owned_string())
}

/// A time in nanoseconds; Protobuf says 0, or nothing, for "not yet".
fn time(nanoseconds: Option<Int64>) -> Option<DateTime<Utc>> {
    let micros = nanoseconds?.0 / 1000;
    if micros > 0 { DateTime::from_timestamp_micros(micros) } else { None }
}

fn cut(error: &str) -> String {
    let mut end = error.len().min(MAX_ERROR_BYTES);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    error[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{EgressStatus, egress_from_slice, recording_event};
    use crate::event::{Egress, Event, decode};

    fn egress(info: &str) -> Egress {
        egress_from_slice(info.as_bytes(), "/egressInfo").unwrap()
    }

    #[test]
    fn a_status_is_a_name_a_number_or_nothing() {
        let status =
            |status: &str| egress(&format!(r#"{{"egressId":"EG","status":{status}}}"#)).status;
        assert_eq!(status("null"), EgressStatus::Starting);
        assert_eq!(status("0"), EgressStatus::Starting);
        assert_eq!(status("1"), EgressStatus::Active);
        assert_eq!(status("2"), EgressStatus::Ending);
        assert_eq!(status("3"), EgressStatus::Complete);
        assert_eq!(status("4"), EgressStatus::Failed);
        assert_eq!(status("5"), EgressStatus::Aborted);
        assert_eq!(status("6"), EgressStatus::Failed);
        assert_eq!(status("\"EGRESS_LIMIT_REACHED\""), EgressStatus::Failed);
        assert_eq!(status("\"EGRESS_\\u0041CTIVE\""), EgressStatus::Active);
        let stored =
            r#"{"egressId":"EG","status":6,"fileResults":[{"filename":"f","location":"l"}]}"#;
        assert_eq!(egress(stored).status, EgressStatus::Complete);
    }

    #[test]
    fn a_report_that_is_made_an_event_again_is_the_same_report() {
        let stored = r#","roomComposite":{"fileOutputs":[{"s3":{"bucket":"b"}}]},"endedAt":"1780000005000000000",
            "fileResults":[{"filename":"f","location":"l","size":"7","startedAt":"1780000001000000000"}]"#;
        for (status, rest) in [
            ("EGRESS_STARTING", ""),
            ("EGRESS_ACTIVE", r#","fileResults":[{"filename":"f"}]"#),
            ("EGRESS_ENDING", r#","roomId":"RM","roomName":"room""#),
            ("EGRESS_ABORTED", r#","error":"Start signal not received""#),
            ("EGRESS_FAILED", r#","backupStorageUsed":true"#),
            ("EGRESS_COMPLETE", stored),
        ] {
            let info = format!(r#"{{"egressId":"EG","status":"{status}","updatedAt":"5"{rest}}}"#);
            let egress = egress(&info);
            let session_id = Some(Uuid::from_u128(7));
            let event = recording_event(&egress, session_id);
            let Ok(Event::Recording(again)) = decode(&event) else { panic!("{status}") };
            assert_eq!((again.session_id, &again.egress), (session_id, &egress), "{status}");
        }
    }

    #[test]
    fn what_is_wrong_is_pointed_at_from_the_whole() {
        for (info, pointer) in [
            (r#"{"status":"EGRESS_ACTIVE"}"#, "/egressInfo/egressId"),
            (r#"{"egress_id":""}"#, "/egressInfo/egressId"),
            (r#"{"egressId":"EG","status":"PAUSED"}"#, "/egressInfo/status"),
            (r#"{"egressId":"EG","status":7}"#, "/egressInfo/status"),
            (r#"{"egressId":"EG","updatedAt":"soon"}"#, "/egressInfo/updatedAt"),
            (r#"{"egressId":"EG","fileResults":[{"size":[]}]}"#, "/egressInfo/fileResults/0/size"),
            (r#"{"egressId":"EG","error":"\u0000"}"#, "/egressInfo/error"),
            ("[]", "/egressInfo"),
        ] {
            let rejection = egress_from_slice(info.as_bytes(), "/egressInfo").unwrap_err();
            assert_eq!(rejection.pointer.as_deref(), Some(pointer), "{info}");
            assert!(rejection.message.ends_with('.'), "{info}: {}", rejection.message);
        }
    }

    #[test]
    fn the_bucket_comes_from_whatever_was_asked_for() {
        for request in [
            r#""roomComposite":{"fileOutputs":[{"s3":{"bucket":"b"}}]}"#,
            r#""room_composite":{"file_outputs":[{"gcp":{"bucket":"b"}}]}"#,
            r#""participant":{"fileOutputs":[{"aliOSS":{"bucket":"b"}}]}"#,
            r#""trackComposite":{"file":{"azure":{"containerName":"b"}}}"#,
            r#""track":{"file":{"s3":{"bucket":"b"}},"websocketUrl":"x"}"#,
            r#""web":{"url":"x","file_outputs":[{"s3":{"bucket":"b"}},{"s3":{"bucket":"c"}}]}"#,
        ] {
            let info = format!(r#"{{"egressId":"EG","file":{{"filename":"f"}},{request}}}"#);
            assert_eq!(egress(&info).file.unwrap().bucket.as_deref(), Some("b"), "{request}");
        }
    }

    #[test]
    fn a_long_error_is_cut_between_characters_and_zero_times_are_none() {
        let error = "é".repeat(400);
        let info = format!(
            r#"{{"egressId":"EG","error":"{error}","startedAt":"0","endedAt":1780000000123456789}}"#
        );
        let egress = egress(&info);
        assert_eq!(egress.error.unwrap().len(), 512);
        assert_eq!(egress.started_at, None);
        assert_eq!(egress.ended_at.unwrap().timestamp_micros(), 1_780_000_000_123_456);
    }
}
